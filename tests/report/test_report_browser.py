"""The report in a real browser; skipped where there is none."""

import shutil

import pytest
from conftest import photograph
from report_helpers import hostile_names
from training_helpers import make_folders, run, tiny_options, write_options

from nlcl_plugin.report import write_report

pytestmark = pytest.mark.slow

NAMES = ["\"><img src=x onerror='window.hacked=1'>.png", "雨 é.png"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a Chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    make_folders(root, photograph)
    for folder in ("val_rainy", "val_clean"):
        hostile_names(root / folder, NAMES)
    options = tiny_options(val={"val_freq": 2, "save_img": False})
    options["train"]["dimension_freq"] = 1
    options["datasets"]["val"]["name"] = "a <b>set<b>"
    write_options(root, options)
    done = run(root, "train", "-opt", "options.yml")
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # its folders are relative
        return write_report("experiments/tiny", root / "page.html", progress=False)


@pytest.fixture
def opened(browser, report):
    page, said = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    yield page, said, requests
    page.close()


def test_it_loads_nothing_complains_of_nothing_and_fits_the_window(opened, report):
    page, said, requests = opened
    assert said == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("window.hacked") is None
    for width in (1280, 480):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_every_chart_is_drawn_and_tells_the_values_under_the_pointer(opened):
    page, _, _ = opened
    charts = page.locator("[data-chart]")
    assert charts.count() > 6
    for number in range(charts.count()):
        # An SVG path of numbers only, or nothing is seen.
        lines = charts.nth(number).locator("path").evaluate_all("found => found.map((line) => line.getAttribute('d'))")
        assert lines
        assert all(line.startswith("M") and "NaN" not in line for line in lines)
    chart = charts.filter(has_text="l_restorer")
    box = chart.locator("svg").bounding_box()
    chart.locator("svg").hover(position={"x": box["width"] - 25, "y": 40})
    assert "value: " in chart.inner_text()
    assert "@ 6" in chart.inner_text()


def test_a_slider_uncovers_what_was_there_before(opened):
    page, _, _ = opened
    slider = page.locator(".compare input").first
    after = page.locator(".compare .after").first
    assert after.evaluate("image => getComputedStyle(image).clipPath") == "inset(0px 0px 0px 50%)"
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert after.evaluate("image => getComputedStyle(image).clipPath") == "inset(0px 0px 0px 55%)"
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.2, box["y"] + 20)
    cut = after.evaluate("image => parseFloat(getComputedStyle(image).clipPath.split(' ')[3])")
    assert 15 < cut < 25
