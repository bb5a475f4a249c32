"""What a training writes down for who looks at it later: losses, metrics, starts, and what TensorBoard gets."""

import json
import shlex

import pytest
from conftest import photograph
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_helpers import make_folders, run, tiny_options, write_options

from nlcl_plugin.errors import InputError
from nlcl_plugin.training.json_log import JsonLog, read_json_lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training to 5, with its last checkpoint at 4, as after a kill, that then goes on to 6."""
    root = tmp_path_factory.mktemp("records")
    make_folders(root, photograph)
    options = tiny_options(val={"val_freq": 2, "save_img": False})
    options["logger"].update(use_tb_logger=True)
    write_options(root, options)
    command = ["train", "-opt", "options.yml", "--auto_resume", "--force_yml"]
    first = run(root, *command, "train:total_iter=5")
    assert first.returncode == 0, first.stderr
    before = (root / "experiments/tiny/metrics.jsonl").read_text(encoding="utf-8")
    for file in [*(root / "experiments/tiny").glob("models/net_*_5.*"), *(root / "experiments/tiny").glob("*/5.*")]:
        file.unlink()
    second = run(root, *command, "logger:print_freq=1")
    assert second.returncode == 0, second.stderr
    return root, before, (first.stderr, second.stderr)


def test_metrics_of_every_validation_are_logged_and_those_after_the_checkpoint_taken_back(trained):
    root, before, _ = trained
    text = (root / "experiments/tiny/metrics.jsonl").read_text(encoding="utf-8")
    # The first part validated at 2, 4 and, at its end, 5; its last checkpoint is of 4.
    assert [json.loads(line)["iter"] for line in before.splitlines()] == [2, 4, 5]
    assert [json.loads(line)["iter"] for line in text.splitlines()] == [2, 4, 6]
    assert text.splitlines()[:2] == before.splitlines()[:2]
    summary = json.loads((root / "experiments/tiny/summary.json").read_text(encoding="utf-8"))
    last = json.loads(text.splitlines()[-1])
    assert (last["dataset"], last["images"], set(last["metrics"])) == ("pairs", 2, {"psnr", "ssim"})
    assert last["metrics"]["psnr"] == pytest.approx(summary["psnr"]["derained"], abs=1e-6)


def test_each_start_is_written_down_with_its_command_and_environment(trained):
    root, _, _ = trained
    starts = read_json_lines(root / "experiments/tiny/starts.jsonl")
    assert [start["iter"] for start in starts] == [0, 4]
    said = "python -m nlcl_plugin train -opt options.yml --auto_resume --force_yml"
    assert [start["command"] for start in starts] == [f"{said} train:total_iter=5", f"{said} logger:print_freq=1"]
    assert shlex.split(starts[0]["command"])[-1] == "train:total_iter=5"
    assert starts[0]["folder"] == str(root)
    environment = starts[0]["environment"]
    assert environment["processes"] == "1"
    assert environment["device"].startswith("CPU")
    assert {"nlcl_plugin", "BasicSR", "torch", "Python", "system"} <= set(environment)


def test_tensorboard_gets_what_the_files_hold_and_small_pictures(trained):
    root, _, _ = trained
    events = EventAccumulator(str(root / "tb_logger/tiny"), size_guidance={"scalars": 0, "images": 0}).Reload()
    losses = read_json_lines(root / "experiments/tiny/losses.jsonl")
    # The iterations after the checkpoint were run twice; their last events count.
    rates = {event.step: event.value for event in events.Scalars("lr")}
    for entry in losses:
        assert rates[entry["iter"]] == pytest.approx(entry["lr"], rel=1e-6)
    restorer = {event.step: event.value for event in events.Scalars("losses/l_restorer")}
    assert restorer[6] == pytest.approx(losses[-1]["l_restorer"], rel=1e-6)
    metrics = read_json_lines(root / "experiments/tiny/metrics.jsonl")
    psnr = {event.step: event.value for event in events.Scalars("metrics/pairs/psnr")}
    assert psnr[6] == pytest.approx(metrics[-1]["metrics"]["psnr"], rel=1e-6)
    assert sorted(events.Tags()["images"]) == ["pairs/0.png", "pairs/1.png"]
    for picture in events.Images("pairs/0.png"):
        assert (picture.height, picture.width) == (48, 3 * 56)


def test_a_log_is_read_while_it_is_written_and_cut_back_when_resumed(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_json_lines(path) == []
    log = JsonLog(str(path), 0)
    for iteration in (1, 2, 3):
        log.write({"iter": iteration, "l": 0.1 * iteration})
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"iter": 4, "l"')
    assert [entry["iter"] for entry in read_json_lines(path)] == [1, 2, 3]
    JsonLog(str(path), 2).write({"iter": 3, "l": 7.0})
    assert read_json_lines(path) == [{"iter": 1, "l": 0.1}, {"iter": 2, "l": 0.2}, {"iter": 3, "l": 7.0}]
    JsonLog(str(path), 0)
    assert path.read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("line", ["nothing", "[1]", '{"l": 1}', '{"iter": null}'])
def test_a_file_that_is_no_log_is_named(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(f'{{"iter": 1}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"log\.jsonl: line 2 is no entry of a log"):
        read_json_lines(tmp_path / "log.jsonl")
