"""Every fault of an option file or its folders ends in one line that names it, before anything is built."""

import os
import re
import shutil
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import photograph
from training_helpers import make_folders, tiny_options, write_options

from nlcl_plugin.config import check as validate
from nlcl_plugin.errors import InputError
from nlcl_plugin.training.launch import start


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_folders(root, photograph)
    (root / "empty").mkdir()
    (root / "not.lmdb").mkdir()
    (root / "file.txt").write_text("text")
    return root


@pytest.fixture
def begin(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)

    def begin(options, **kwargs):
        return start(str(write_options(tmp_path, options)), is_train=kwargs.pop("is_train", True), **kwargs)

    return begin


def changed(path, value):
    """The tiny options with one value set; `path` is block:block:key, value None drops the key."""
    options = tiny_options()
    *blocks, key = path.split(":")
    block = options
    for name in blocks:
        block = block[name]
    if value is None:
        del block[key]
    else:
        block[key] = value
    return options


def test_valid_options_come_back_complete(begin, folder):
    options = begin(tiny_options())
    assert options["path"]["models"] == os.path.join(folder, "experiments", "tiny", "models")
    assert options["datasets"]["val"]["phase"] == "val"
    assert (options["is_train"], options["dist"], options["rank"], options["world_size"]) == (True, False, 0, 1)


def test_more_gpus_than_there_are_are_refused_but_of_several_machines(begin, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="num_gpu: 2 asked for, but this machine has 1; use num_gpu: 1 or auto"):
        begin(tiny_options(num_gpu=2))
    validate._check_gpus(2, dist=True)
    validate._check_gpus(1, dist=False)


def test_a_network_larger_than_the_memory_is_refused_on_every_system(begin, monkeypatch):
    monkeypatch.delattr(os, "sysconf", raising=False)  # not on Windows
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000))
    with pytest.raises(InputError, match=r"network_d: PatchDiscriminator has .* this machine has 0 GiB of memory"):
        begin(tiny_options())


def test_a_resumed_run_has_the_drawn_seed_of_its_own_name(begin, folder):
    options = tiny_options()
    del options["manual_seed"]
    for name, seed in (("tiny", 11), ("debug_tiny", 22)):
        (folder / "experiments" / name).mkdir(parents=True)
        (folder / "experiments" / name / "options.yml").write_text(f"manual_seed: {seed}")
    try:
        seeds = [begin(options, auto_resume=True, debug=debug)["manual_seed"] for debug in (False, True)]
    finally:
        shutil.rmtree(folder / "experiments")
    assert seeds == [11, 22]


@pytest.mark.parametrize(
    ("key", "value", "warning"),
    [
        ("train:gan_opt", None, "train.optim_d: is not used, as there is no gan_opt"),
        ("train:restorer_opt", None, "train.optim_s: is not used, as there is no restorer_opt"),
        ("datasets:train:use_shuffle", False, "datasets.train.use_shuffle: is not read; training always shuffles"),
        ("datasets:val:phase", "train", "datasets.val.phase: is not read; 'val' is filled in"),
        ("datasets:val:scale", 4, "datasets.val.scale: is not read; 1 is filled in"),
    ],
)
def test_options_that_nothing_reads_are_warned_about(begin, key, value, warning):
    options = tiny_options()
    options["train"].update(layer_opt=None, optim_d={"type": "Adam", "lr": 1e-3}, optim_s={"type": "Adam", "lr": 1e-3})
    *blocks, last = key.split(":")
    block = options
    for name in blocks:
        block = block[name]
    block[last] = value
    with pytest.warns(UserWarning, match=re.escape(warning)):
        begin(options)


FAULTS = [
    ("scale", 2, "scale: NLCLModel keeps the size of images: expected 1, but received 2"),
    ("name", None, "name: expected a text, but it is missing"),
    ("name", "../up", "must be a plain folder name"),
    ("train", None, "train: expected a block, but it is missing"),
    ("path", "x", "path: expected a block"),
    ("model_type", "NLCLModle", "model_type: no model is named 'NLCLModle'; did you mean 'NLCLModel'?"),
    ("modle", 1, "modle: unknown option"),
    ("train:amp", "fp8", "train.amp: input should be 'bf16' or 'fp16', but received 'fp8'"),
    ("train:accumulate", 3, "train.accumulate: a batch of 2 images has no 3 equal parts"),
    ("train:on_nonfinite", "ignore", "train.on_nonfinite: input should be 'stop' or 'skip'"),
    ("train:grad_clip", 0, "train.grad_clip: input should be greater than 0"),
    ("_base_", "x.yml", "_base_: there is no file"),
    ("deterministic", "yes please", "deterministic: expected true or false, but received 'yes please'"),
    ("logger:keep_checkpoints", 0, "logger.keep_checkpoints: input should be greater than or equal to 1"),
    ("num_gpu", "two", "num_gpu: expected auto"),
    ("num_gpu", 64, "num_gpu: 64 asked for"),
    ("manual_seed", "x", "manual_seed: expected a whole number"),
    ("decomposition", "both", "decomposition: input should be 'residual' or 'two_branch', but received 'both'"),
    ("network_g:type", "LayerGenrator", "network_g.type: no arch is named 'LayerGenrator'; did you mean 'LayerGen"),
    ("network_g:num_feet", 1, "network_g.num_feet: LayerGenerator has no such option; did you mean 'num_feat'?"),
    ("network_g:layer", "snow", "network_g: layer must be one of"),
    ("network_g:type", None, "network_g.type is missing"),
    ("train:total_iter", None, "train.total_iter: field required"),
    ("train:total_iter", "many", "train.total_iter: expected a number, but received the text 'many'"),
    ("train:total_iter", -5, "train.total_iter: input should be greater than 0, but received -5"),
    ("train:totl_iter", 5, "train.totl_iter: unknown option; did you mean 'total_iter'?"),
    ("train:optim_s", None, "train: restorer_opt needs optim_s"),
    ("train:optim_g", {"type": "Adam", "lr": "fast"}, "train.optim_g.lr: expected a number"),
    (
        "train:optim_g",
        {"type": "Adan", "lr": 1e-3},
        "train.optim_g.type: torch.optim has no 'Adan'; did you mean 'Adam'",
    ),
    ("train:restorer_opt:start_itr", 3, "train.restorer_opt.start_itr: unknown option; did you mean 'start_iter'?"),
    ("train:restorer_opt:start_iter", 6, "must be below total_iter"),
    ("train:gan_opt:gan_tipe", "x", "train.gan_opt.gan_tipe: GANLoss has no such option; did you mean 'gan_type'?"),
    ("train:gan_opt:type", "GAN", "train.gan_opt.type: no loss is named 'GAN'"),
    ("train:relay_opt:loss_weight", "8,0", "train.relay_opt.loss_weight: expected a number"),
    (
        "train:layer_opt",
        {"type": "AsymmetricNLCLLoss", "temperature": -1},
        "train.layer_opt: temperatures must be positive",
    ),
    (
        "train:layer_opt",
        {"type": "AsymmetricNLCLLoss", "sampling": {"patchsize": 3}},
        "train.layer_opt.sampling.patchsize: unknown option; did you mean 'patch_size'?",
    ),
    ("train:scheduler", {"type": "Linear"}, "train.scheduler.type: no scheduler is named 'Linear'"),
    ("val:metrics", {"psnr": {"type": "psnr"}}, "val.metrics.psnr.type: no metric is named 'psnr'"),
    ("val:val_frequency", 3, "val.val_frequency: unknown option; did you mean 'val_freq'?"),
    ("datasets:train:type", "UnpairedDataset", "datasets.train.type: no dataset is named 'UnpairedDataset'; did you"),
    ("datasets:train:dataroot_lq", "nowhere", "datasets.train.dataroot_lq: .*nowhere"),
    ("datasets:train:dataroot_lq", "empty", "datasets.train.dataroot_lq: .*empty"),
    ("datasets:train:dataroot_lq", "file.txt", "datasets.train.dataroot_lq: .*file.txt"),
    ("datasets:train:dataroot_gt", None, "datasets.train.dataroot_gt"),
    ("datasets:train:gt_siz", 3, "datasets.train.gt_siz: unknown option; did you mean 'gt_size'?"),
    ("datasets:train:gt_size", "big", "datasets.train.gt_size: expected a number"),
    ("datasets:train:batch_size_per_gpu", None, "datasets.train.batch_size_per_gpu is missing: expected"),
    ("datasets:train:prefetch_mode", "cuda", "prefetch_mode: cuda needs a GPU"),
    ("datasets:train:persistent_workers", True, "persistent_workers: needs num_worker_per_gpu"),
    ("datasets:train:io_backend", {"type": "petrel"}, "io_backend.type: expected disk or lmdb, but received 'petrel'"),
    ("datasets:train:io_backend", {"type": "lmdb"}, "datasets.train.dataroot_lq: .*rainy"),
    ("datasets:val:dataroot_gt", "rainy", "datasets.val.dataroot_lq: val_rainy and rainy: 5 images have no partner"),
    (
        "datasets:train:dataroot_lq",
        "not.lmdb",
        "dataroot_lq: not.lmdb: this is an LMDB, and io_backend has 'type: disk'; set",
    ),
    (
        "network_d:num_in_ch",
        1,
        "network_d.num_in_ch: expected 3, the channels of the images of datasets.train, but rec",
    ),
    ("datasets:validation", {"type": "PairedImageDataset"}, "datasets.validation: name a dataset train or val"),
    ("network_d", None, "network_d is missing"),
    ("path", {"pretrain_netwrok_g": "x.pth"}, "path.pretrain_netwrok_g: unknown option"),
    ("path", {"pretrain_network_z": "file.txt"}, "path.pretrain_network_z: there is no network_z; add the block"),
    ("path", {"pretrain_network_g": 5}, "path.pretrain_network_g: expected a path, but received 5"),
    ("path", {"pretrain_network_g": "file.txt"}, "path.pretrain_network_g: file.txt does not fit network_g or is no"),
    ("logger:print_frq", 5, "logger.print_frq: unknown option; did you mean 'print_freq'?"),
    ("logger:print_freq", 0, "logger.print_freq: input should be greater than or equal to 1, but received 0"),
    ("val:val_freq", 2.5, "val.val_freq: expected a whole number"),
    ("val:metrics", ["psnr"], "val.metrics: expected a block, but received"),
    ("val:metrics", {"psnr": {"type": "calculate_psnr"}}, "val.metrics.psnr.crop_border is missing"),
    ("datasets:train:dataset_enlarge_ratio", 0, "dataset_enlarge_ratio: input should be greater than 0"),
    ("datasets:val:name", 2024, "datasets.val.name: expected a text, but received 2024"),
    ("datasets:train:gt_size", 8, "a training step with these options fails: ValueError: the discriminator cannot"),
    (
        "train:scheduler",
        {"type": "LinearDecayLR", "decay_form": 1},
        "train.scheduler: LinearDecayLR refuses its arguments",
    ),
    ("train:optim_g", {"type": "Adam", "lr": 1e-3, "betas": 0.9}, "train.optim_g: Adam refuses its arguments"),
    ("train:relay_opt", {"type": "GANLoss", "gan_type": "lsgan"}, "a training step with these options fails"),
    ("demo_data", True, "demo_data: expected a folder, but received True"),
    ("path", {"pretrain_network_g": "none.pth"}, "path.pretrain_network_g: there is no file or folder 'none.pth'"),
]


@pytest.mark.parametrize(("path", "value", "match"), FAULTS, ids=[f"{p}={v}"[:50] for p, v, _ in FAULTS])
def test_fault_is_named(begin, path, value, match):
    with pytest.raises(InputError, match=match) as caught:
        begin(changed(path, value))
    assert "\n" not in str(caught.value)


def test_lmdb_that_is_none_is_named(begin):
    options = tiny_options()
    options["datasets"]["train"].update(dataroot_lq="not.lmdb", dataroot_gt="not.lmdb", io_backend={"type": "lmdb"})
    with pytest.raises(InputError, match=r"datasets.train.dataroot_lq: .*not.lmdb"):
        begin(options)


def test_hanging_prefetch_combination_is_refused(begin):
    options = tiny_options()
    options["datasets"]["train"].update(prefetch_mode="cpu", persistent_workers=True, num_worker_per_gpu=1)
    with pytest.raises(InputError, match="hangs for ever"):
        begin(options)


def test_unknown_keys_of_stock_models_are_warned_about(begin):
    options = tiny_options(model_type="SRModel", colour="blue")
    del options["network_d"], options["network_s"], options["decomposition"]
    options["train"] = {"total_iter": 3, "optim_g": {"type": "Adam", "lr": 1e-4}, "pixel_opt": {"type": "L1Loss"}}
    options["train"]["scheduler"] = {"type": "MultiStepLR", "milestones": [2]}
    with pytest.warns(UserWarning, match="colour: unknown option"):
        begin(options)


def test_checking_leaves_no_trace(begin, folder):
    before = sorted(folder.rglob("*"))
    begin(tiny_options())
    begin(tiny_options())
    assert sorted(folder.rglob("*")) == before


def test_optional_dataset_is_left_out_with_a_warning_where_it_is_missing(begin):
    options = tiny_options()
    options["datasets"]["val"]["optional"] = True
    assert "val" in begin(options)["datasets"]
    options["datasets"]["val"]["dataroot_gt"] = "nowhere"
    with pytest.warns(UserWarning, match="datasets.val is left out"):
        assert list(begin(options)["datasets"]) == ["train"]


def test_null_takes_a_dataset_out(begin):
    assert list(begin(tiny_options(), force_yml=["datasets:val=~"])["datasets"]) == ["train"]


def test_a_number_of_workers_is_not_needed(begin):
    options = tiny_options()
    del options["datasets"]["train"]["num_worker_per_gpu"]
    assert begin(options)["datasets"]["train"]["num_worker_per_gpu"] == 0


def test_torchrun_variables_are_asked_for(begin, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match=r"not set: RANK, WORLD_SIZE.*; start with `torchrun"):
        begin(tiny_options(), launcher="pytorch")
