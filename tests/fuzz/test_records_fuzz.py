"""Whatever becomes of a record that is read back, it is used, or refused in one line, and nothing is lost or harmed.

Records of derained folders, of trainings, of rain banks and of studies. The draws are derived from the test itself, so
that every run sees the same examples.
"""

import json
import os
import re
import shutil
import sys

import cv2
import pytest
import yaml
from conftest import REPOSITORY, photograph
from derain_helpers import save_network
from hostile import (
    CHANGED_TWICE,
    assert_one_line,
    change_anywhere,
    change_lines,
    examples,
    mutated,
    replace,
    tool,
    watch,
    written,
)
from training_helpers import tiny_options

from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.rain_bank import read_facts


def change_document(draw, path):
    """Change a file that is one JSON value."""
    text = path.read_text()
    changed = change_anywhere(draw, text, draw.choice(["value", "value", "key"]))
    path.write_bytes(mutated(draw, text.encode()) if draw.random() < 0.3 else changed.encode())


def check(main, arguments, capsys, output):
    """Run a tool, and see how it ends and that it writes below one folder only; returns the exit code and the text."""
    watch().seen.clear()
    capsys.readouterr()
    watch().on = True
    try:
        code = main([str(argument) for argument in arguments])
    finally:
        watch().on = False
    out, err = capsys.readouterr()
    if code == 2:
        assert err.startswith("error: ")
        assert_one_line(err.removesuffix("\n"))
        assert err[:-1].isprintable()
    else:
        assert code in (0, 3)
        assert err == ""
        assert all(line.isprintable() for line in out.splitlines())
    assert [path for path in written() if repr(str(output))[:-1] not in path] == []
    return code, out


# derained folders -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def derained(tmp_path_factory):
    """Photographs, and what became of them."""
    root = tmp_path_factory.mktemp("derained")
    save_network(root / "net_s.pth", ResidualUNet(num_feat=4))
    for number in range(3):
        path = root / "in" / "sub" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), photograph(20, 24, seed=number))
    assert tool("derain").main(list(map(str, derain_arguments(root, "whole")))) == 0
    return root


def derain_arguments(root, name):
    return [root / "in", "--output", root / name, "--weights", root / "net_s.pth", "--metrics", "--save", "rain"]


def fuzz_derained(root, capsys, count):
    outcomes = []

    @examples(count)
    def go(draw):
        shutil.rmtree(root / "out", ignore_errors=True)
        shutil.copytree(root / "whole", root / "out")
        record = root / "out" / "derain.jsonl"
        change_lines(draw, record) if draw.random() < 0.85 else replace(draw, record)
        code, _ = check(tool("derain").main, derain_arguments(root, "out"), capsys, root / "out")
        outcomes.append(code)
        for number in range(3):  # nothing is lost
            made, whole = (root / folder / "sub" / f"{number}.png" for folder in ("out", "whole"))
            assert made.read_bytes() == whole.read_bytes()

    go()
    assert set(outcomes) == {0, 2}


def test_mutated_records_of_derained_folders(derained, capsys):
    fuzz_derained(derained, capsys, 40)


@pytest.mark.slow
def test_a_thousand_mutated_records_of_derained_folders(derained, capsys):
    fuzz_derained(derained, capsys, 1000)


def test_no_link_in_a_derained_folder_leads_out_of_it(derained, capsys):
    shutil.rmtree(derained / "out", ignore_errors=True)
    (derained / "elsewhere").mkdir()
    (derained / "out").mkdir()
    (derained / "out" / "_rain").symlink_to(derained / "elsewhere")
    code, out = check(tool("derain").main, derain_arguments(derained, "out"), capsys, derained / "out")
    assert code == 3
    assert "leads out of the output folder" in out
    assert os.listdir(derained / "elsewhere") == []


# trainings ------------------------------------------------------------------------------------------------------------
LOGS = {
    "losses.jsonl": [
        {
            "iter": i,
            "epoch": 0,
            "lr": 1e-4,
            "l_x": 1 / (i + 1),
            "l_x_above_floor": 0.1,
            "dim_image": 3.5,
            "dim_rain": 2.0,
        }
        for i in range(8)
    ],
    "metrics.jsonl": [
        {"iter": i, "dataset": name, "images": 2, "metrics": {"psnr": 20.0 + i, "ssim": 0.5}}
        for i in (3, 7)
        for name in ("pairs", "others")
    ],
    "starts.jsonl": [
        {"iter": 0, "time": "2026", "command": "basicsr", "folder": "/x", "environment": {"torch": "2", "system": "s"}}
    ],
}
FIGURES = {
    "images": 2,
    "baseline": "opening 3",
    "psnr": {"rainy": 20.0, "baseline": 21.0, "derained": 22.0, "clean": 30.0},
    "ssim": {"rainy": 0.5, "baseline": 0.6, "derained": 0.7, "clean": 0.9},
}
BLIND = {"images": 3, "niqe": {"rainy": 5.0, "derained": 4.0}, "split_error": 0.01}
SUMMARY = {**FIGURES, "datasets": {"pairs": FIGURES}, "photographs": {"street": BLIND}}


def write_experiment(folder):
    folder.mkdir()
    (folder / "options.yml").write_text(yaml.safe_dump(tiny_options()))
    for name, entries in LOGS.items():
        (folder / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))


def no_constant(name):
    raise AssertionError(f"no JSON: {name}")


def fuzz_logs(folder, capsys, count):
    outcomes = []

    @examples(count)
    def go(draw):
        shutil.rmtree(folder, ignore_errors=True)
        write_experiment(folder)
        for _ in range(draw.choice([1, 1, 2])):
            path = folder / draw.choice([*LOGS, "losses.jsonl", "summary.json"])
            try:
                if draw.random() < 0.1 or not path.is_file():
                    replace(draw, path)
                elif path.suffix == ".json":
                    change_document(draw, path)
                else:
                    change_lines(draw, path)
            except CHANGED_TWICE:
                continue
        code, _ = check(tool("report").main, [folder, "--images", 0], capsys, folder)
        outcomes.append(code)
        if code == 0:
            page = (folder / "report.html").read_text(encoding="utf-8")
            (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
            json.loads(data, parse_constant=no_constant)
        else:
            assert not (folder / "report.html").exists()

    go()
    assert set(outcomes) == {0, 2}


def test_mutated_logs_of_a_training(tmp_path, capsys):
    fuzz_logs(tmp_path / "x", capsys, 100)


@pytest.mark.slow
def test_two_thousand_mutated_logs_of_a_training(tmp_path, capsys):
    fuzz_logs(tmp_path / "x", capsys, 2000)


# rain banks -----------------------------------------------------------------------------------------------------------
def test_mutated_facts_of_a_rain_bank(tmp_path):
    facts = {"format": 1, "experiment": "x", "images": 3, "mean_rain": 0.01, "max_rain": 0.5, "network": {"type": "U"}}
    path = tmp_path / "rain_bank.json"
    outcomes = []

    @examples(300)
    def go(draw):
        path.unlink(missing_ok=True) if not path.is_dir() else path.rmdir()
        path.write_text(json.dumps(facts))
        change_document(draw, path)
        if draw.random() < 0.05:
            replace(draw, path)
            if path.is_fifo():
                return
        try:
            found = read_facts(tmp_path)
        except InputError as error:
            assert_one_line(error, path)
            outcomes.append("refused")
        else:
            assert f"{found['mean_rain']:.4f} {found['max_rain']:.2f}"
            outcomes.append("read")

    go()
    assert set(outcomes) == {"read", "refused"}


# studies --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of which all is done: the function that reports on it, and the records of its trainings."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    import ablate
    from studies.plan import read_study, trainings

    (tmp_path / "base.yml").write_text(yaml.safe_dump(tiny_options()))
    settings = {
        "name": "tiny",
        "title": "Tiny",
        "seeds": [0, 1],
        "options": "base.yml",
        "datasets": {"photos": {}},
        "arms": {"plain": {}, "other": {"set": {"train": {"relay_opt": None}}}},
        "compare": [["plain", "other"]],
    }
    path = tmp_path / "study.yml"
    path.write_text(yaml.safe_dump(settings))
    found = trainings(read_study(path, {}), path)
    records = {}
    for training in found:
        result = {"digest": training.digest, "outcome": "done", "minutes": 1.5, "version": "0", "torch": "2",
                  "figures": {"pairs": FIGURES}, "photographs": {"street": BLIND}}  # fmt: skip
        records[tmp_path / "work" / "tiny" / training.place / "result.json"] = json.dumps(result)
    yield lambda *options: ablate.main([str(path), "--work", str(tmp_path / "work"), *options]), records
    for name in [name for name in sys.modules if name == "studies" or name.startswith("studies.")]:
        del sys.modules[name]


def fuzz_study(study, capsys, count, whole):
    """Read mutated results; of those that are taken, some get a whole report, plot and all."""
    main, records = study
    from studies import report

    outcomes = []

    @examples(count)
    def go(draw):
        for path, text in records.items():
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir(parents=True)
            path.write_text(text)
        changed = draw.choice(list(records))
        change_document(draw, changed) if draw.random() < 0.95 else replace(draw, changed)
        plots = outcomes.count(0) < whole
        with pytest.MonkeyPatch.context() as patch:
            if not plots:  # which takes a second
                patch.setattr(report, "_plot", lambda pictures, path: None)
            outcomes.append(main("--report-only"))
        out, err = capsys.readouterr()
        if outcomes[-1] == 2:
            assert_one_line(err.removesuffix("\n"))
            assert str(changed) in err
        else:
            assert "# Tiny" in out

    go()
    assert set(outcomes) == {0, 2}


def test_mutated_results_of_a_study(study, capsys):
    fuzz_study(study, capsys, 60, whole=2)


@pytest.mark.slow
def test_five_hundred_mutated_results_of_a_study(study, capsys):
    fuzz_study(study, capsys, 500, whole=100)


def test_a_damaged_record_loses_no_training(study, capsys):
    main, records = study
    path = next(iter(records))
    path.parent.mkdir(parents=True)
    (path.parent / "begun.json").write_text('{"digest"')
    (path.parent / "mine.txt").write_text("mine")
    for place, text in list(records.items())[1:]:
        place.parent.mkdir(parents=True)
        place.write_text(text)
    assert main() == 2
    assert "begun.json: is damaged" in capsys.readouterr().err
    assert (path.parent / "mine.txt").read_text() == "mine"
