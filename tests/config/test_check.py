"""Every fault of an option file or its folders ends in one line that names its key, before anything is written."""

import os
import shutil
import warnings

import pytest
import torch
from training_helpers import make_folders, tiny_options, write_options

from nlcl_plugin.config.check import check_data
from nlcl_plugin.config.option_files import complete
from nlcl_plugin.errors import InputError
from nlcl_plugin.training.launch import start

# A stock model with our losses, on the pairs of make_folders.
PAIRED = {
    "name": "paired",
    "model_type": "NLCLSRModel",
    "num_gpu": 0,
    "manual_seed": 0,
    "datasets": {"train": {"type": "PairedImageDataset", "dataroot_lq": "val_rainy", "dataroot_gt": "val_clean",
                           "gt_size": 32, "batch_size_per_gpu": 1, "use_hflip": True, "use_rot": False}},
    "network_g": {"type": "ResidualUNet", "num_feat": 4},
    "network_p": {"type": "ProjectionHeads", "num_feat": 8},
    "train": {
        "total_iter": 2, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"},
        "scheduler": {"type": "MultiStepLR", "milestones": [1]},
        "nlcl_opt": {"loss_weight": 0.5, "features": {"source": "generator", "modules": ["head"]},
                     "layer_opt": {"type": "AsymmetricNLCLLoss", "loss_weight": 0.5,
                                   "sampling": {"num_rain_patches": 8, "patch_size": 6, "search_size": 12}}},
    },
}  # fmt: skip

STOCK = {**PAIRED, "train": {key: block for key, block in PAIRED["train"].items() if key != "nlcl_opt"}}
STOCK["model_type"] = "SRModel"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_folders(root)
    (root / "empty").mkdir()
    (root / "not.lmdb").mkdir()
    (root / "file.txt").write_text("text")
    return root


@pytest.fixture
def begin(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    return lambda options, *force_yml, **more: start(
        str(write_options(tmp_path, options)), is_train=True, force_yml=list(force_yml), **more
    )


# Options, an override of them, and what the message matches: the key, and what is wrong with it.
NLCL = "AsymmetricNLCLLoss"
OURS = [
    ("scale=2", "scale: NLCLModel keeps the size of images: expected 1"),
    ("name=../up", "name: must be a plain folder name"),
    ("train=~", "train: field required"),
    ("model_type=~", "model_type: field required"),
    ("model_type=NLCLModle", "model_type: no model is named 'NLCLModle'; .*; did you mean 'NLCLModel'?"),
    ("modle=1", "modle: unknown option"),
    ("deterministic=yes please", "deterministic: expected true or false, but received 'yes please'"),
    ("num_gpu=two", "num_gpu: expected auto.*, but received 'two'"),
    ("num_gpu=64", "num_gpu: expected auto or at most"),
    ("manual_seed=2024-01-02", "manual_seed: expected a whole number, but received '2024-01-02'"),
    ("decomposition=both", "decomposition: input should be 'residual' or 'two_branch', but received 'both'"),
    ("dist_params={timeout: 0}", "dist_params.timeout: input should be greater than 0"),
    ("dist_params={backnd: nccl}", "dist_params.backnd: unknown option; did you mean 'backend'?"),
    ("network_d=~", "network_d is missing"),
    ("network_d:num_in_ch=1", "a training step with these options fails: .* to have 1 channels, but got 3"),
    ("network_g:type=LayerGenrator", "network_g.type: no arch is named 'LayerGenrator'; .*; did you mean 'LayerGen"),
    ("network_g:num_feet=1", "network_g.num_feet: unknown option; did you mean 'num_feat'?"),
    ("network_g:typ=LayerGenerator", "network_g.typ: unknown option; did you mean 'type'?"),
    ("network_g:num_feat=a", "network_g: TypeError: "),
    ("train:accumulate=3", "train.accumulate: a batch of 2 images has no 3 equal parts"),
    ("train:grad_clip=.inf", "train.grad_clip: expected a finite number, but received inf"),
    ("train:ema_decay='0.9'", "train.ema_decay: expected a number, but received the text '0.9'"),
    ("train:optim_s=~", "train: restorer_opt needs optim_s"),
    ("train:optim_g:type=Adan", "train.optim_g.type: torch.optim has no 'Adan'; did you mean Adam"),
    ("train:optim_g:betas=0.9", "train.optim_g: Adam refuses its arguments"),
    ("train:restorer_opt:start_iter=6", "train: restorer_opt.start_iter .* must be below total_iter"),
    ("train:gan_opt:gan_tipe=x", "train.gan_opt.gan_tipe: unknown option; did you mean 'gan_type'?"),
    ("train:gan_opt:gan_type=magic", "fails: NotImplementedError: GAN type magic is not implemented"),
    ("train:relay_opt={type: GANLoss, gan_type: lsgan}", "a training step with these options fails"),
    (f"train:layer_opt={{type: {NLCL}, sampling: {{patchsize: 3}}}}", "train.layer_opt.sampling.patchsize: unknown"),
    ("train:scheduler:type=Linear", "train.scheduler.type: no schedule is named 'Linear'"),
    ("train:scheduler:decay_form=1", "train.scheduler: LinearDecayLR refuses its arguments"),
    ("val:metrics={psnr: {type: psnr}}", "val.metrics.psnr.type: no metric is named 'psnr'"),
    ("val:metrics={psnr: {type: calculate_psnr}}", "val.metrics.psnr.crop_border is missing"),
    ("val:metrics={p: {type: calculate_psnr, crop_border: 0, crop_brder: 1}}", "val.metrics.p.crop_brder: unknown"),
    ("val:val_frequency=3", "val.val_frequency: unknown option; did you mean 'val_freq'?"),
    ("logger:print_frq=5", "logger.print_frq: unknown option; did you mean 'print_freq'?"),
    ("path={pretrain_netwrok_g: x.pth}", "path.pretrain_netwrok_g: unknown option"),
    ("path={pretrain_network_z: file.txt}", "path.pretrain_network_z: unknown option"),
    ("path={pretrain_network_g: file.txt}", "path.pretrain_network_g: file.txt does not fit network_g or is no"),
    ("path={pretrain_network_g: none.pth}", "path.pretrain_network_g: none.pth: no such file or folder"),
    ("datasets:train=~", "datasets.train is missing"),
    ("datasets:validation={type: PairedImageDataset}", "datasets.validation: name a dataset train or val"),
    ("datasets:train:type=UnpairedDataset", "datasets.train.type: no dataset is named 'UnpairedDataset'; .*; did you"),
    ("datasets:train:dataroot_lq=nowhere", "datasets.train.dataroot_lq: .*nowhere"),
    ("datasets:train:dataroot_lq=empty", "datasets.train.dataroot_lq: .*empty"),
    ("datasets:train:dataroot_lq=not.lmdb", "datasets.train.dataroot_lq: not.lmdb: this is an LMDB, and io_backend"),
    ("datasets:train:dataroot_gt=~", "datasets.train.dataroot_gt"),
    ("datasets:train:gt_size=8", "a training step with these options fails: ValueError: the discriminator cannot"),
    ("datasets:train:batch_size_per_gpu=~", "datasets.train.batch_size_per_gpu is missing: expected"),
    ("datasets:train:prefetch_mode=cuda", "datasets.train.prefetch_mode: cuda needs a GPU"),
    ("datasets:train:persistent_workers=true", "datasets.train: persistent_workers: needs num_worker_per_gpu"),
    ("datasets:train:io_backend={type: petrel}", "datasets.train.io_backend.type: input should be 'disk' or 'lmdb'"),
    ("datasets:val:dataroot_gt=rainy", "datasets.val.dataroot_lq: val_rainy and rainy: 5 images have no partner"),
    ("datasets:val:name=../x", "datasets.val.name: must be a plain folder name"),
]  # fmt: skip
ADDED = [
    ("scale=2", "scale: is 2, but network_g enlarges by 1"),
    ("train:nlcl_opt:los_weight=1", "train.nlcl_opt.los_weight: unknown option; did you mean 'loss_weight'?"),
    ("train:nlcl_opt:layer_opt:temperature=0", "the model with these options fails: ValueError: temperatures must be"),
    ("train:nlcl_opt:layer_opt:sampling:num_image_patches=400", "train.nlcl_opt with crops of 32 pixels: "),
    ("train:nlcl_opt:features:modules=[]", "train.nlcl_opt.features: name at least one of the generator's modules"),
    ("train:nlcl_opt:features:modules=[haed]", "ResidualUNet has no module 'haed'; did you mean 'head'?"),
    ("train:nlcl_opt:features={source: discriminator, modules: [conv0]}", "net_d, which NLCLSRModel lacks"),
    ("train:nlcl_opt:features={source: encoder}", "network_e is missing: train.nlcl_opt needs an encoder"),
    ("train:optim_p={type: Adam, lr: 1e-4}", "train.optim_p: nothing reads it .* train.nlcl_opt.optim_p"),
    (
        "train:pixel_opt:loss_weight='1,5'",
        "train.pixel_opt.loss_weight: expected a number, but received the text '1,5'",
    ),
    ("train:pixel_opt:loss_weight=.nan", "train.pixel_opt.loss_weight: expected a finite number, but received nan"),
    ("datasets:train:gt_size=abc", "datasets.train.gt_size: expected a number, but received the text 'abc'"),
    ("train:pixel_opt:reduction=all", "the model with these options fails: ValueError: Unsupported reduction"),
    ("train:optim_g=~", "the model with these options fails: 'optim_g' is missing"),
    ("train:scheduler:type=Linear", "fails: NotImplementedError: Scheduler Linear is not implemented"),
    ("network_g={type: EDSR, num_in_ch: 1, num_out_ch: 1, num_feat: 4}", "network_g .EDSR. takes no images"),
]
OTHERS = [
    (["datasets:train:num_worker_per_gpu=1", "datasets:train:prefetch_mode=cpu",
      "datasets:train:persistent_workers=true"], "datasets.train: prefetch_mode: cpu .* hangs for ever"),
]  # fmt: skip
FAULTS = [
    *((tiny_options(), [entry], match) for entry, match in OURS),
    *((PAIRED, [entry], match) for entry, match in ADDED),
    *((STOCK, entries, match) for entries, match in OTHERS),
]


@pytest.mark.parametrize(
    ("options", "entries", "match"), FAULTS, ids=[f"{entries[-1]}"[:50] for _, entries, _ in FAULTS]
)
def test_fault_is_named(begin, folder, options, entries, match):
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=match.replace("?", r"\?")) as caught:
        begin(options, *entries)
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "entry", "match"),
    [
        (tiny_options(), "train:restorer_opt=~", "train.optim_s: is not used, as there is no restorer_opt"),
        (tiny_options(), "datasets:train:use_shuffle=false", "datasets.train.use_shuffle: is not read; training"),
        (PAIRED, "train:pixl_opt={type: L1Loss}", "train.pixl_opt: unknown option; did you mean"),
        (PAIRED, "datasets:train:scale=4", "datasets.train.scale: is not read; 1 is filled in"),
        (PAIRED, "path={pretrain_netwrk_g: x}", "path.pretrain_netwrk_g: unknown option; did you mean 'pretrain_net"),
        (PAIRED, "path={models: elsewhere}", "path.models: unknown option"),
        (PAIRED, "model_type=SwinIRModel", "train.nlcl_opt: SwinIRModel ignores it; use NLCLSwinIRModel"),
    ],
)
def test_what_nothing_reads_is_warned_about(begin, options, entry, match):
    with pytest.warns(UserWarning, match=match.replace("?", r"\?")):
        begin(options, entry)


def test_files_without_faults_come_back_complete_without_warnings_or_a_trace(begin, folder):
    before = sorted(folder.rglob("*"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begin(PAIRED)
        options = tiny_options()
        del options["datasets"]["train"]["num_worker_per_gpu"]
        options = begin(options)
    assert options["path"]["models"] == os.path.join(folder, "experiments", "tiny", "models")
    assert options["datasets"]["val"]["phase"] == "val"
    assert options["datasets"]["train"]["num_worker_per_gpu"] == 0
    assert (options["is_train"], options["dist"], options["rank"], options["world_size"]) == (True, False, 0, 1)
    assert sorted(folder.rglob("*")) == before


NULLS = ["scale", "num_gpu", "deterministic", "dist_params", "path", "logger", "val:val_freq", "train:accumulate",
         "train:min_mean_rain", "train:relay_opt:loss_weight", "train:restorer_opt:gain", "train:scheduler:decay_from",
         "network_g:num_block", "datasets:train:num_worker_per_gpu", "datasets:train:cache"]  # fmt: skip


def test_null_is_the_default_everywhere(begin):
    options = begin(tiny_options(), *(f"{key}=~" for key in NULLS), "datasets:val=~", "network_s:num_block=1")
    assert list(options["datasets"]) == ["train"]
    assert options["logger"]["print_freq"] == 100
    assert "num_block" not in options["network_g"]


def test_an_optional_dataset_is_left_out_with_a_warning_where_it_is_missing(begin):
    assert "val" in begin(tiny_options(), "datasets:val:optional=true")["datasets"]
    with pytest.warns(UserWarning, match="datasets.val is left out"):
        options = begin(tiny_options(), "datasets:val:optional=true", "datasets:val:dataroot_gt=nowhere")
    assert list(options["datasets"]) == ["train"]


@pytest.mark.parametrize(("there", "dist", "expected"), [(0, False, 0), (8, False, 1), (8, True, 8)])
def test_auto_is_one_gpu_without_a_launcher(monkeypatch, there, dist, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    options = {"name": "x", "datasets": {}, "num_gpu": "auto", "dist": dist}
    complete(options, root="", is_train=False, auto_resume=False, debug=False)
    assert options["num_gpu"] == expected


def test_more_gpus_than_there_are_are_refused_unless_they_are_of_several_machines(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    options = {"num_gpu": 2, "path": {}, "datasets": {}, "model_type": "SRModel"}
    with pytest.raises(InputError, match="num_gpu: expected auto or at most 1, but received 2"):
        check_data(options)
    check_data({**options, "dist": True})
    check_data({**options, "num_gpu": 1})


def test_a_resumed_run_has_the_drawn_seed_of_its_own_name(begin, folder):
    for name, seed in (("tiny", 11), ("debug_tiny", 22)):
        (folder / "experiments" / name).mkdir(parents=True)
        (folder / "experiments" / name / "options.yml").write_text(f"manual_seed: {seed}")
    try:
        seeds = [
            begin(tiny_options(manual_seed=None), auto_resume=True, debug=debug)["manual_seed"] for debug in (0, 1)
        ]
    finally:
        shutil.rmtree(folder / "experiments")
    assert seeds == [11, 22]
