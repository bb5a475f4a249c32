import io
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import gradio_client
import numpy as np
import pytest
from PIL import Image

import nlcl_plugin
from nlcl_plugin.cli import main
from nlcl_plugin.inference.demo_page import build_page, serve
from nlcl_plugin.inference.derain import ImageDerainer


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    networks = {name: ImageDerainer(name, device="cpu") for name in ("real", "demo")}
    networks["weak"] = ImageDerainer("demo", device="cpu", strength=0.5)
    page = build_page(networks, tmp_path_factory.mktemp("demo"), max_pixels=10_000)
    yield serve(page, port=None, max_bytes=80_000, wait=False)
    page.close()


@pytest.fixture(scope="module")
def client(address):
    return gradio_client.Client(address, verbose=False, analytics_enabled=False)


@pytest.fixture
def photograph(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 200, (48, 64, 3), np.uint8))
    exif = Image.Exif()
    exif[0x010E] = "a street in the rain"
    image.save(tmp_path / "street.png", exif=exif)
    return tmp_path / "street.png"


def derain(client, path, weights="real", strength=1.0):
    return client.predict(gradio_client.handle_file(str(path)), weights, strength, api_name="/derain")


@pytest.mark.parametrize(
    ("chosen", "factor", "weights", "strength"),
    [("real", 1.0, "real", 1.0), ("demo", 2.0, "demo", 2.0), ("weak", 1.0, "demo", 0.5), ("weak", 3.0, "demo", 1.5)],
)
def test_the_download_is_the_derained_photograph_with_its_metadata(
    client, photograph, chosen, factor, weights, strength
):
    _, facts, download, _ = derain(client, photograph, chosen, factor)
    path = Path(download["value"])
    expected = nlcl_plugin.derain(np.asarray(Image.open(photograph)), weights, strength=strength, device="cpu")
    with Image.open(path) as result:
        np.testing.assert_array_equal(np.asarray(result), expected)
        assert result.getexif()[0x010E] == "a street in the rain"
    assert path.name == "street_derained.png"
    assert "64 × 48 pixels" in facts


def test_what_is_shown_is_the_photograph_before_and_after(client, photograph):
    (before, after), _, _, rain = derain(client, photograph)
    assert {Image.open(path).size for path in (before, after, rain)} == {(64, 48)}
    assert Path(before).read_bytes() != Path(after).read_bytes()


def test_results_of_one_name_are_kept_apart(address, photograph, tmp_path):
    other = tmp_path / "other" / photograph.name
    other.parent.mkdir()
    Image.new("RGB", (32, 32), "teal").save(other)
    linked = gradio_client.Client(address, verbose=False, analytics_enabled=False, download_files=False)
    links = [derain(linked, path)[2]["value"]["url"] for path in (photograph, other)]
    sizes = [Image.open(io.BytesIO(urllib.request.urlopen(link).read())).size for link in links]
    assert sizes == [(64, 48), (32, 32)]


def test_a_file_that_cannot_be_derained_is_one_line_with_its_name(client, photograph, tmp_path):
    torn, text, large = (tmp_path / name for name in ("torn.png", "text.jpg", "large.png"))
    torn.write_bytes(photograph.read_bytes()[:2000])
    text.write_text("no image", encoding="utf-8")
    Image.new("RGB", (200, 100)).save(large)
    reasons = {torn: "cannot be decoded", text: "is no PNG, JPEG", large: "the limit is 10000"}
    for path, reason in reasons.items():
        with pytest.raises(gradio_client.exceptions.AppError, match=f"^{path.name}: .*{reason}.*$"):
            derain(client, path)


def test_nothing_was_chosen(client):
    with pytest.raises(gradio_client.exceptions.AppError, match="Choose a photograph first"):
        client.predict(None, "real", 1.0, api_name="/derain")


def test_it_is_served_to_this_machine_only(address):
    assert address.startswith("http://127.0.0.1:")


def test_unusable_arguments_are_one_line(capsys, monkeypatch, address):
    assert main(["demo", "--port", address.rstrip("/").rpartition(":")[2]]) == 2
    assert "is in use or not permitted" in capsys.readouterr().err
    assert main(["demo", "--weights", "missing.pth"]) == 2
    assert "missing.pth: no such file or folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "nlcl_plugin.inference.demo_page")
    assert main(["demo"]) == 2
    assert 'pip install "nlcl_plugin[demo]"' in capsys.readouterr().err


@pytest.mark.slow
def test_a_browser_draws_the_page_without_any_other_machine(address):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a Chromium")
    alone = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=20000"]
    command = [program, *flags, alone, "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    for text in ("Remove the rain from a photograph", "Strength", "Before and after", ">Derain<"):
        assert text in " ".join(done.stdout.split()).replace("> ", ">").replace(" <", "<")
    assert "ERR_NAME_NOT_RESOLVED" not in done.stderr
