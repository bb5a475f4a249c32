"""Faults of single files, of what else fails beside a training step, and who is blamed for them."""

import cv2
import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import get_root_logger
from basicsr.utils.logger import initialized_logger
from conftest import photograph
from torch.utils.data import DataLoader
from training_helpers import states, tiny_options, write_options

from nlcl_plugin import cli
from nlcl_plugin.data.lmdb.create import create_lmdb
from nlcl_plugin.errors import InputError
from nlcl_plugin.training.launch import start
from nlcl_plugin.training.loaders import ExplainedDataset, faults_of_workers
from nlcl_plugin.training.train import make_folders as make_folders_of
from nlcl_plugin.training.train import start_logger


def pairs_of(folder, scale=1):
    options = {
        **{"io_backend": {"type": "disk"}, "dataroot_lq": str(folder / "lq"), "dataroot_gt": str(folder / "gt")},
        **{"phase": "train", "scale": scale, "gt_size": 8, "use_hflip": False, "use_rot": False},
    }
    for name in ("lq", "gt"):
        (folder / name).mkdir()
        cv2.imwrite(str(folder / name / "a.png"), photograph(16, 24))
    return ExplainedDataset(PairedImageDataset(options))


def test_the_unreadable_file_of_a_sample_is_named(tmp_path, monkeypatch):
    dataset = pairs_of(tmp_path)
    dataset[0]
    with monkeypatch.context() as patch:
        patch.setattr("basicsr.data.paired_image_dataset.paired_random_crop", lambda *_: None)
        with pytest.raises(TypeError):  # both images are fine: a fault of the dataset's own
            dataset[0]
    (tmp_path / "gt" / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"/gt/a.png: cannot be decoded as an image"):
        dataset[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_pairs_that_do_not_fit_each_other_are_named_in_one_line(tmp_path, workers):
    dataset = pairs_of(tmp_path, scale=2)
    with pytest.raises(InputError) as caught, faults_of_workers():
        next(iter(DataLoader(dataset, num_workers=workers)))
    message = f"PairedImageDataset fails on {tmp_path}/lq/a.png and {tmp_path}/gt/a.png: Scale mismatches."
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


# a whole training -----------------------------------------------------------------------------------------------------
def log(folder):
    return "".join(path.read_text() for path in (folder / "experiments/tiny").glob("train_*.log"))


def options_that_validate_at_4():
    options = tiny_options(val={"val_freq": 4, "save_img": True})
    options["logger"] = {"print_freq": 2, "save_checkpoint_freq": 100}
    return options


def fail(*_arguments, **_options):
    raise ValueError("operands could not be broadcast together")


def test_a_fault_beside_a_validation_keeps_its_traceback_and_the_state_is_saved_first(folder, monkeypatch):
    write_options(folder, options_that_validate_at_4())
    with monkeypatch.context() as patch:
        patch.setattr("nlcl_plugin.models.nlcl_model.NLCLModel.test", fail)
        with pytest.raises(ValueError, match=r"^operands could not be broadcast together$") as caught:
            cli.main(["train", "-opt", "options.yml"])
    assert type(caught.value) is ValueError  # which Python shows with its traceback and ends with 1
    assert caught.traceback[-1].name == "fail"
    assert states(folder) == ["4"]
    assert "State of iteration 4 saved; resume with --auto_resume" in log(folder)
    assert cli.main(["train", "-opt", "options.yml", "--auto_resume"]) == 0
    assert states(folder) == ["4", "6"]


def test_an_image_that_breaks_during_a_training_is_named_and_the_state_is_saved_first(folder, monkeypatch, capsys):
    options = options_that_validate_at_4()
    options["datasets"]["train"]["dataset_enlarge_ratio"] = 2
    save = cv2.imwrite
    monkeypatch.setattr(
        "nlcl_plugin.models.validation.imwrite",
        lambda image, path: [file.write_bytes(b"broken now") for file in (folder / "rainy").iterdir()],
    )
    assert cli.main(["train", "-opt", str(write_options(folder, options))]) == 2
    assert "rainy_" in capsys.readouterr().err.splitlines()[-1]
    assert states(folder) == ["4"]
    for i in range(3):
        save(str(folder / "rainy" / f"rainy_{i}.png"), photograph(48, 56, seed=i))
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert cli.main(["train", "-opt", "options.yml", "--auto_resume"]) == 0


def test_what_asked_for_the_logger_before_does_not_silence_the_run(folder, capsys):
    options = start(str(write_options(folder, tiny_options())), is_train=True)
    make_folders_of(options)
    initialized_logger.clear()  # as in a new process
    get_root_logger()
    start_logger(options, "train").info("a line of the run")
    assert log(folder).count("INFO: a line of the run\n") == 1
    assert capsys.readouterr().err.count("INFO: a line of the run\n") == 1


# what a start finds in a validation set -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "val_clean/1.png: cannot be decoded as an image"),
        ("smaller", "datasets.val: val_rainy/1.png is 56×48 and val_clean/1.png 40×40; pairs must have one size"),
        ("lmdb", "datasets.val: 1 is 56×48 and 1 40×40; pairs must have one size"),
    ],
)
def test_a_fault_of_a_validation_set_is_found_at_the_start(folder, capfd, how, message):
    path = folder / "val_clean/1.png"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        cv2.imwrite(str(path), photograph(40, 40))
    options = tiny_options()
    if how == "lmdb":
        for name in ("val_rainy", "val_clean"):
            create_lmdb(name, f"{name}.lmdb")
        roots = {"dataroot_lq": "val_rainy.lmdb", "dataroot_gt": "val_clean.lmdb"}
        options["datasets"]["val"].update(**roots, io_backend={"type": "lmdb"})
    assert cli.main(["train", "-opt", str(write_options(folder, options))]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {message}"), err
    assert err.count("\n") == 1
    assert not (folder / "experiments").exists()
