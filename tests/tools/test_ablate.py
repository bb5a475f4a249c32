"""The study tool: which trainings a study file means, that each runs once, and what the report says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import ablate
import cv2
import numpy as np
import pytest
import torch
import yaml
from studies.plan import read_study, trainings
from studies.report import interval
from training_helpers import check_alone, make_folders, tiny_options

from nlcl_plugin.archs import ResidualUNet

ROOTS = {
    "train": {"dataroot_lq": "${photos}/rainy", "dataroot_gt": "${photos}/clean"},
    "val": {"dataroot_lq": "${photos}/val_rainy", "dataroot_gt": "${photos}/val_clean"},
}


def tiny_study(**changes):
    study = {
        "name": "tiny",
        "title": "Tiny",
        "seeds": [0],
        "data": {"photos": "."},
        "options": "base.yml",
        "datasets": {"photos": {"datasets": {"train": {"dataroot_lq": "${photos}/rainy"}}}},
        "arms": {"plain": {}, "other": {"set": {"train": {"relay_opt": None, "optim_g": {"lr": 1e-3}}}}},
        "compare": [["plain", "other"]],
    }
    return {**study, **changes}


@pytest.fixture
def write(tmp_path):
    def write(study, base=None):
        (tmp_path / "base.yml").write_text(yaml.safe_dump(base or tiny_options()))
        path = tmp_path / "study.yml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        return path

    return write


def test_changes_merge_in_order_and_null_switches_off(write, tmp_path):
    path = write(tiny_study(set={"train": {"total_iter": 9}, "network_g": {"_delete_": True, "type": "X"}}))
    study = read_study(path, {"photos": tmp_path / "elsewhere"})
    plain, other = trainings(study, path)
    assert plain.options["train"]["total_iter"] == other.options["train"]["total_iter"] == 9
    assert plain.options["network_g"] == {"type": "X"}
    assert plain.options["datasets"]["train"]["dataroot_lq"] == f"{tmp_path}/elsewhere/rainy"
    assert plain.options["train"]["relay_opt"]["type"] == "RelayLoss"
    assert other.options["train"]["relay_opt"] is None
    assert other.options["train"]["optim_g"] == {"type": "Adam", "lr": 1e-3}
    assert (plain.options["name"], plain.options["manual_seed"]) == ("tiny", 0)
    assert (plain.place, other.place) == ("photos/plain/seed_0", "photos/other/seed_0")


def test_a_training_is_known_by_its_options_and_data_not_by_where_the_study_lies(write, tmp_path):
    path = write(tiny_study(set={"datasets": {"train": {"meta_info_file": "${here}/list.txt"}}}))
    moved = tmp_path / "moved" / path.name
    shutil.copytree(tmp_path, moved.parent, ignore=lambda *_: ["moved"])
    before, after, other = (
        trainings(read_study(file, {"photos": data}), file)[0]
        for file, data in ((path, tmp_path), (moved, tmp_path), (path, tmp_path / "other"))
    )
    assert before.options["datasets"]["train"]["meta_info_file"] == f"{tmp_path}/list.txt"
    assert before.options != after.options
    assert before.digest == after.digest != other.digest


@pytest.mark.parametrize(
    ("changes", "arguments", "match"),
    [
        ({"arms": {}}, [], "arms: "),
        ({"compare": [["plain", "missing"]]}, [], "there is no arm 'missing'"),
        ({"arms": {"../plain": {}}, "compare": []}, [], "names folders"),
        ({}, ["--data", "photos"], "expected NAME=FOLDER"),
        ({}, ["--arms", "none"], "has no arm none"),
    ],
)
def test_faulty_studies_and_arguments_are_refused_in_one_line(write, capsys, changes, arguments, match):
    assert ablate.main([str(write(tiny_study(**changes))), *arguments]) == 2
    error = capsys.readouterr().err
    assert match in error
    assert len(error.splitlines()) == 1


def test_a_damaged_record_loses_no_training(write, tmp_path, capsys):
    place = tmp_path / "work/tiny/photos/plain/seed_0"
    place.mkdir(parents=True)
    (place / "begun.json").write_text('{"digest"')
    (place / "mine.txt").write_text("mine")
    study = write(tiny_study(arms={"plain": {}}, compare=[]))
    assert ablate.main([str(study), "--work", str(tmp_path / "work")]) == 2
    assert "begun.json: is damaged" in capsys.readouterr().err
    assert (place / "mine.txt").read_text() == "mine"


def test_intervals_equal_the_textbook():
    found = interval([1.0, 2.0, 4.0])
    # mean 7/3, standard deviation 1.5275, t(0.975, 2) = 4.3027
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["half"] == pytest.approx(4.30265 * 1.527525 / np.sqrt(3), rel=1e-5)
    assert interval([1.0])["half"] == float("inf")


@pytest.mark.slow
def test_a_study_runs_each_training_once_pools_parts_and_reports(write, tmp_path, capsys):
    make_folders(tmp_path, pairs=1)
    base = tiny_options()
    base["train"].update(total_iter=2, restorer_opt={"start_iter": 1})
    arms = {"two": {"parts": {"a": {}, "b": {"train": {"optim_s": {"lr": 1e-2}}}}}, "broken": {"set": {"scale": "x"}}}
    study = tiny_study(datasets={"photos": {"datasets": ROOTS}}, arms=arms, compare=[["two", "two"]])
    path = write(study, base)
    command = [str(path), "--data", f"photos={tmp_path}", "--work", str(tmp_path / "work"), "--jobs", "2"]
    assert ablate.main(command) == 3  # the broken arm
    captured = capsys.readouterr()
    assert "photos/broken/seed_0: exit code 2: error: " in captured.err
    assert "**1 of 3 trainings have no result yet.**" in captured.out

    folder = tmp_path / "work" / "tiny"
    results = [json.loads((folder / f"photos/two/{part}/seed_0/result.json").read_text()) for part in "ab"]
    mean = np.mean([result["figures"]["pairs"]["psnr"]["derained"] for result in results])
    report = json.loads((folder / "report.json").read_text())
    assert report["sets"]["photos"]["arms"]["two"]["0"]["psnr"]["derained"] == pytest.approx(mean)
    assert report["sets"]["photos"]["differences"]["two − two"]["values"] == [0.0]
    assert f"| two | {mean:.2f} | **{mean:.2f}** |" in captured.out
    assert (folder / "report.md").read_text().startswith(captured.out.rstrip())
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")

    before = (folder / "photos/two/a/seed_0/result.json").stat().st_mtime_ns
    assert ablate.main([*command, "--arms", "two"]) == 0
    assert (folder / "photos/two/a/seed_0/result.json").stat().st_mtime_ns == before
    arms["two"]["parts"]["a"] = {"train": {"optim_s": {"lr": 1e-2}}}
    write(study, base)
    assert ablate.main([*command, "--arms", "two", "--report-only"]) == 0  # a result of other options doesn't count
    assert "**1 of 2 trainings have no result yet.**" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["models", "layer", pytest.param("layer_alone", marks=pytest.mark.slow), "results"])
def test_every_training_of_our_own_studies_has_options_that_the_command_takes(repository, tmp_path, name, monkeypatch):
    path = repository / "options" / "studies" / f"{name}.yml"
    for weights in ("back.pth", "rain.pth"):
        (tmp_path / weights).touch()
    study = read_study(path, {"weights": tmp_path} if name == "results" else {})
    found = {training.digest: training for training in trainings(study, path)}
    assert len(found) == len(trainings(study, path))  # no two are the same
    for training in (one for one in found.values() if one.seed == study.seeds[0]):
        check_alone(training.options, monkeypatch, is_train=training.trains)


@pytest.mark.slow
def test_an_interrupted_study_goes_on_where_it_was(repository, write, tmp_path):
    make_folders(tmp_path, pairs=1)
    base = tiny_options()
    base["train"].update(total_iter=100_000, restorer_opt={"start_iter": 50_000})
    base["logger"] = {"print_freq": 1, "save_checkpoint_freq": 100_000}
    for name, root in (("train", ""), ("val", "val_")):
        base["datasets"][name].update(dataroot_lq=f"{tmp_path}/{root}rainy", dataroot_gt=f"{tmp_path}/{root}clean")
    path = write(tiny_study(arms={"plain": {}}, compare=[], datasets={"photos": {}}), base)
    command = [sys.executable, repository / "tools" / "ablate.py", path, "--work", tmp_path / "work"]
    states = tmp_path / "work/tiny/photos/plain/seed_0/experiments/tiny/training_states"
    log = tmp_path / "work/tiny/photos/plain/seed_0/log.txt"
    minutes = [0.0]
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(command, start_new_session=True)
        printed = log.read_text().count("iter:") if log.exists() else 0
        # The start and a resumption print such a line as well.
        while not log.exists() or log.read_text().count("iter:") < printed + 4:
            assert process.poll() is None
            time.sleep(0.2)
        os.killpg(process.pid, number)
        assert process.wait(60) == 5
        minutes.append(json.loads((log.parent / "begun.json").read_text())["minutes"])
    assert minutes[2] > minutes[1] > 0
    saved = sorted(int(state.stem) for state in states.glob("*.state"))
    assert len(saved) == 2
    assert "Resuming from epoch" in log.read_text()


@pytest.mark.slow
def test_an_arm_may_test_given_weights_and_photographs_are_shown_beside_each_other(write, tmp_path, capsys):
    make_folders(tmp_path, pairs=1)
    base = tiny_options()
    base["train"].update(total_iter=2, restorer_opt={"start_iter": 1})
    base["val"]["save_img"] = True
    network = {"type": "ResidualUNet", "num_feat": 4, "num_block": 1}
    torch.save({"params": ResidualUNet(num_feat=4, num_block=1).state_dict()}, tmp_path / "given.pth")
    street = {"name": "street", "type": "UnpairedImageDataset", "dataroot_lq": "${photos}/rainy"}
    weights = {"pretrain_network_s": "${photos}/given.pth", "param_key_s": "params"}
    arms = {"given": {"test": True, "set": {"network_s": network, "path": weights}}, "trained": {}}
    datasets = {"photos": {"datasets": {**ROOTS, "val_2": street}}}
    study = tiny_study(seeds=[0, 1], datasets=datasets, arms=arms, compare=[], show=list(arms))
    command = [str(write(study, base)), "--data", f"photos={tmp_path}", "--work", str(tmp_path / "work")]
    assert ablate.main([*command, "--out", str(tmp_path / "docs")]) == 0, capsys.readouterr().err
    folder = tmp_path / "work" / "tiny" / "photos"
    assert sorted(place.name for place in (folder / "given").iterdir()) == ["seed_0"]  # nothing in it is random
    assert sorted(place.name for place in (folder / "trained").iterdir()) == ["seed_0", "seed_1"]
    given = json.loads((folder / "given/seed_0/result.json").read_text())
    assert given["outcome"] == "done"
    assert given["photographs"]["street"]["images"] == 3
    sheet = cv2.imread(str(tmp_path / "docs/images/tiny_photos_street.png"))
    assert sheet.shape[1] > 3 * 400  # rainy, given, trained
    assert "images/tiny_photos_street.png" in (tmp_path / "docs/tiny.md").read_text()
