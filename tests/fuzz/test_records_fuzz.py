"""A damaged record of a study loses no training."""

import json
import sys

import pytest
import yaml
from conftest import REPOSITORY
from training_helpers import tiny_options

FIGURES = {
    "images": 2,
    "baseline": "opening 3",
    "psnr": {"rainy": 20.0, "baseline": 21.0, "derained": 22.0, "clean": 30.0},
    "ssim": {"rainy": 0.5, "baseline": 0.6, "derained": 0.7, "clean": 0.9},
}
BLIND = {"images": 3, "niqe": {"rainy": 5.0, "derained": 4.0}, "split_error": 0.01}


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
