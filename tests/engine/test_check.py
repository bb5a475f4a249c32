"""`basicsr check` says what would be done, refuses what train and test refuse, and leaves no trace."""

import os
import re
import warnings

import pytest
import torch
import yaml
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from conftest import photograph
from training_helpers import make_folders, run, tiny_options, write_options

from nlcl_plugin import cli
from nlcl_plugin.archs import LayerGenerator, PatchDiscriminator, ResidualUNet
from nlcl_plugin.data.demo_data import make_demo_data
from nlcl_plugin.engine.launch import start
from nlcl_plugin.engine.options import load_yaml
from nlcl_plugin.engine.schema_check import keys_in_source
from nlcl_plugin.errors import InputError

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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    make_folders(tmp_path, photograph)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(folder, options, capsys, *force_yml):
    """Run the command in this process; returns its exit code and what it printed."""
    path = write_options(folder, options)
    before = sorted(folder.rglob("*"))
    code = cli.main(["check", "-opt", str(path), *(["--force_yml", *force_yml] if force_yml else [])])
    assert sorted(folder.rglob("*")) == before
    told = capsys.readouterr()
    return code, told.out, told.err


def count(net):
    return f"{sum(p.numel() for p in net.parameters()):,}"


def test_what_would_be_trained_on_what(folder, capsys):
    options = tiny_options()
    options["train"]["identity_opt"] = {"type": "L1Loss", "loss_weight": 0.25, "ramp_iter": 1000}
    code, out, err = check(folder, options, capsys, "train:total_iter=1200", "train:accumulate=2")
    assert (code, err) == (0, "")
    for line in (
        "tiny: trains NLCLModel (residual)",
        f"network_g: LayerGenerator, {count(LayerGenerator(layer='residual', num_out_ch=1, num_feat=8, num_block=1))}",
        f"network_d: PatchDiscriminator, {count(PatchDiscriminator(num_feat=8, num_layers=2, antialias=False))}",
        f"network_s: ResidualUNet, {count(ResidualUNet(num_feat=8, num_block=1))} parameters",
        "train: UnpairedImageDataset, 3 images, crops of 32 pixels; rainy (3), clean (5)",
        "val (pairs): PairedImageDataset, 2 images; val_rainy (2), val_clean (2)",
        "gan_opt: GANLoss × 1\n",
        "identity_opt: L1Loss × 0.25, rising from 0 over 1,000 iterations",
        "relay_opt: RelayLoss × 8, rising from 0 over 2 iterations",
        "restorer_opt.pixel_opt: L1Loss × 1",
        "1, layers: iterations 1 to 3",
        "2, restorer on pseudo-pairs: iterations 4 to 1,200",
        "optim_g: Adam, 0.0005",
        "scheduler: LinearDecayLR",
        "2 images a step in 2 parts, times the number of processes; in one, 1 step an epoch, 1,200 epochs",
        "CPU, fp32, seed 1",
        "every 100 iterations and at the end",
    ):
        assert line in out, line
    assert out.rstrip().endswith(os.path.join("experiments", "tiny"))


def test_a_state_that_is_there_is_told(folder, capsys):
    states = folder / "experiments" / "tiny" / "training_states"
    states.mkdir(parents=True)
    for name in ("4.state", "12.state", "4.sha256"):
        (states / name).touch()
    _, out, _ = check(folder, tiny_options(), capsys)
    assert "which is there: it would be kept under another name; --auto_resume goes on from iteration 12" in out


def test_demo_data_is_told_of_and_not_made(folder, capsys):
    options = tiny_options(demo_data="demo")
    options["datasets"]["train"].update(dataroot_lq="demo/rainy", dataroot_gt="./demo/../demo/clean")
    code, out, _ = check(folder, options, capsys)
    assert code == 0
    assert "train: UnpairedImageDataset, demo data that would be made in demo, crops of 32 pixels" in out
    assert "val (pairs): PairedImageDataset, 2 images" in out
    options["datasets"]["train"]["cache"] = "yes please"
    code, _, err = check(folder, options, capsys)
    assert (code, err) == (2, "error: datasets.train.cache: got 'yes please', expected true or false\n")
    options["datasets"]["train"].update(cache=True, dataroot_gt="nowhere")
    assert "datasets.train.dataroot_gt: nowhere: no such folder" in check(folder, options, capsys)[2]
    options["demo_data"] = "rainy"
    assert "exists and holds no demo data" in check(folder, options, capsys)[2]


@pytest.mark.slow
def test_demo_data_that_is_there_is_counted(folder, capsys):
    make_demo_data("demo")
    options = tiny_options(demo_data="demo")
    options["datasets"]["train"].update(dataroot_lq="demo/rainy", dataroot_gt="demo/clean")
    assert re.search(r"train: UnpairedImageDataset, \d+ images, crops .* demo/rainy", check(folder, options, capsys)[1])


def test_a_test_file_is_checked_as_test_would(folder, capsys):
    options = {key: tiny_options()[key] for key in ("name", "model_type", "num_gpu", "network_s")}
    options["datasets"] = {"test": {"name": "mine", "type": "UnpairedImageDataset", "dataroot_lq": "rainy"}}
    options["path"] = {"pretrain_network_s": "net.pth"}
    assert "there is no file or folder 'net.pth'" in check(folder, options, capsys)[2]
    torch.save({"params_ema": ResidualUNet(num_feat=4).state_dict()}, "net.pth")
    code, _, err = check(folder, options, capsys)
    assert code == 2
    assert "net.pth does not fit network_s" in err
    torch.save({"params_ema": ResidualUNet(num_feat=8, num_block=1).state_dict()}, "net.pth")
    code, out, err = check(folder, options, capsys)
    assert (code, err) == (0, "")
    for line in ("tiny: tests NLCLModel", "pretrain_network_s: net.pth", "test (mine): UnpairedImageDataset, 3 images",
                 "results/tiny"):  # fmt: skip
        assert line in out


def test_a_stock_model_with_layer_contrast_shows_both_weights_together(folder, capsys):
    code, out, err = check(folder, PAIRED, capsys)
    assert (code, err) == (0, "")
    assert "nlcl_opt.layer_opt: AsymmetricNLCLLoss × 0.25" in out
    assert re.search(r"network_p: ProjectionHeads, \d+ parameters", out)
    assert "scheduler: MultiStepLR (milestones [1])" in out


def test_the_command_ends_with_its_codes_in_a_process_of_its_own(folder):
    write_options(folder, tiny_options())
    done = run(folder, "check", "-opt", "options.yml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny: trains")
    done = run(folder, "check", "-opt", "options.yml", "--force_yml", "train:totl_iter=3", "name=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: train.totl_iter: unknown option; did you mean 'total_iter'?\n"


# what train, test and check refuse ----------------------------------------------------------------------------------
OURS = [
    ("train:accumulate=true", "train.accumulate: expected a whole number, but received True"),
    ("train:grad_clip=.inf", "train.grad_clip: expected a finite number, but received inf"),
    ("train:ema_decay='0.9'", "train.ema_decay: expected a number, but received the text '0.9'"),
    ("train:channels_last='no'", "train.channels_last: expected true or false, but received 'no'"),
    ("train:optim_g:lr=true", "train.optim_g.lr: expected a number, but received True"),
    ("train:relay_opt:loss_weight=~", "train.relay_opt.loss_weight: expected a number, but received None"),
    ("train:gan_opt:gan_type=magic", "train.gan_opt: "),
    ("manual_seed=-1", "manual_seed: input should be greater than or equal to 0"),
    ("manual_seed=2024-01-02", "manual_seed: expected a whole number, but received '2024-01-02'"),
    ("scale=0", "scale: input should be greater than or equal to 1"),
    ("val:save_img='yes'", "val.save_img: expected true or false"),
    ("dist_params={backend: nccl, port: 0}", "dist_params.port: input should be greater than or equal to 1"),
    ("dist_params={backnd: nccl}", "dist_params.backnd: unknown option; did you mean 'backend'?"),
    ("path={strict_load_g: 1}", "path.strict_load_g: expected true or false, but received 1"),
    (
        "val:metrics={psnr: {type: calculate_psnr, crop_border: 0, crop_brder: 1}}",
        "crop_brder: unknown option; did you",
    ),
    ("network_g:num_feat=1000000000", "network_g.num_feat: 1000000000 is too large for a network"),
    ("network_s:num_feat=60000", "network_s: ResidualUNet has .* parameters with these options, .* GiB of memory"),
    ("network_g:num_feat=a", "network_g: TypeError: "),
    (
        "datasets:train:persistent_workers=1",
        "datasets.train.persistent_workers: expected true or false, but received 1",
    ),
    ("datasets:val:name=../x", "datasets.val.name: must be a plain folder name"),
    ("datasets:val:optional=3", "datasets.val.optional: expected true or false, but received 3"),
    ("train:scheduler:decay_from=x", "train.scheduler: "),
]


@pytest.mark.parametrize(("entry", "match"), OURS, ids=[entry[:40] for entry, _ in OURS])
def test_wrong_types_and_values_are_refused_in_our_blocks(folder, entry, match):
    path = write_options(folder, tiny_options())
    with pytest.raises(InputError, match=match) as caught:
        start(str(path), is_train=True, force_yml=[entry])
    assert "\n" not in str(caught.value)


THEIRS = [
    ("train:pixl_opt={type: L1Loss}", "train.pixl_opt: unknown option; did you mean 'pixel_opt'?"),
    ("datasets:train:use_hflp=true", "datasets.train.use_hflp: unknown option; did you mean 'use_hflip'?"),
    ("manual_sed=1", "manual_sed: unknown option; did you mean 'manual_seed'?"),
    ("path={pretrain_netwrk_g: ~}", "path.pretrain_netwrk_g: unknown option; did you mean 'pretrain_network_g'?"),
    ("path={models: elsewhere}", "path.models: is not read, as folders follow from the name of the run"),
]


@pytest.mark.parametrize(("entry", "match"), THEIRS, ids=[entry[:40] for entry, _ in THEIRS])
def test_misspelt_keys_are_warned_about_in_blocks_of_others(folder, entry, match):
    path = write_options(folder, PAIRED)
    with pytest.warns(UserWarning, match=re.escape(match)):
        start(str(path), is_train=True, force_yml=[entry])


def test_a_stock_file_without_faults_has_no_warnings(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(str(write_options(folder, PAIRED)), is_train=True)


def test_an_optimizer_of_the_heads_beside_the_block_is_refused(folder):
    path = write_options(folder, PAIRED)
    with pytest.raises(InputError, match=r"train.optim_p: nothing reads it .* as train.nlcl_opt.optim_p"):
        start(str(path), is_train=True, force_yml=["train:optim_p={type: Adam, lr: 1e-4}"])


def test_arguments_of_stock_parts_are_tried(folder):
    path = str(write_options(folder, PAIRED))
    for entry, match in (
        ("train:pixel_opt:reduction=all", "train.pixel_opt: .*Unsupported reduction"),
        ("train:optim_g:betas=3", "train.optim_g: TypeError: "),
        ("train:optim_g=~", "train.optim_g.type is missing"),
        ("train:optim_g:type=Adan", "train.optim_g.type: BasicSR's models have no 'Adan'; take another"),
        ("train:scheduler=~", "train.scheduler: expected a block with a type, but received None"),
        ("train:scheduler:type=Linear", "train.scheduler.type: BasicSR's models have no 'Linear'; take another"),
        ("train:scheduler:milestones=5", "train.scheduler: "),
        ("network_g={type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: x}", "network_g: TypeError"),
        ("train:total_iter=1.5", "train.total_iter: "),
        ("network_g={type: EDSR, num_in_ch: 1, num_out_ch: 1, num_feat: 4}", "network_g.num_in_ch: expected 3, .* 1$"),
    ):
        with pytest.raises(InputError, match=match):
            start(path, is_train=True, force_yml=[entry])


class OwnOptimizer(SRModel):
    def get_optimizer(self, optim_type, params, lr, **kwargs):
        return getattr(torch.optim, optim_type)(params, lr, **kwargs)


class OwnSetup(SRModel):
    def setup_optimizers(self):
        self.optimizer_g = torch.optim.SGD(self.net_g.parameters(), self.opt["train"]["rate"])
        self.optimizers.append(self.optimizer_g)


class OwnSchedule(SRModel):
    def setup_schedulers(self):
        decay = self.opt["train"]["scheduler"]["decay"]
        self.schedulers = [torch.optim.lr_scheduler.ExponentialLR(each, decay) for each in self.optimizers]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (OwnOptimizer, {"optim_g": {"type": "AdamW", "lr": 1e-3}}),
        (OwnSetup, {"rate": 0.1, "optim_g": None}),
        (OwnSchedule, {"scheduler": {"decay": 0.9}}),
        (type("OfOwnSetup", (OwnSetup,), {}), {"rate": 0.1, "optim_g": {"algorithm": "any"}}),
    ],
)
def test_what_a_model_class_makes_itself_is_left_to_it(folder, monkeypatch, capsys, model, changes):
    monkeypatch.setitem(MODEL_REGISTRY._obj_map, model.__name__, model)
    train = {key: value for key, value in {**PAIRED["train"], **changes}.items() if key != "nlcl_opt" and value}
    options = {**PAIRED, "model_type": model.__name__, "train": train}
    code, out, err = check(folder, options, capsys)
    assert (code, err) == (0, "")
    assert f"trains {model.__name__}" in out
    assert cli.main(["train", "-opt", "options.yml"]) == 0


def test_the_optimizers_of_another_basicsr_are_known(folder, monkeypatch):
    path = write_options(folder, {**PAIRED, "model_type": "SRModel"})
    entry = ["train:optim_g={type: AdamW, lr: 1e-3}", "train:nlcl_opt=~"]
    with pytest.raises(InputError, match=r"train.optim_g.type: BasicSR's models have no 'AdamW'"):
        start(str(path), is_train=True, force_yml=entry)
    monkeypatch.setattr(BaseModel, "get_optimizer", OwnOptimizer.get_optimizer)
    assert start(str(path), is_train=True, force_yml=entry)["train"]["optim_g"]["type"] == "AdamW"


@pytest.mark.parametrize(
    ("model", "entries", "match"),
    [
        ("VideoRecurrentModel", ["val={save_img: true}"], "val.save_img: BasicSR's video models save no images while"),
        (
            "StyleGAN2Model",
            ["train:optim_d={type: Adam, lr: 1.0}"],
            "datasets.val: StyleGAN2Model validates on no",
        ),
    ],
)
def test_what_stock_models_refuse_at_their_first_validation_is_refused_at_once(folder, model, entries, match):
    options = {**PAIRED, "model_type": model}
    options["datasets"] = {**PAIRED["datasets"], "val": tiny_options()["datasets"]["val"]}
    with pytest.raises(InputError, match=match):
        start(str(write_options(folder, options)), is_train=True, force_yml=["train:nlcl_opt=~", *entries])


def test_keys_that_a_source_reads_are_found_also_in_its_bases():
    from basicsr.data.paired_image_dataset import PairedImageDataset
    from basicsr.models.esrgan_model import ESRGANModel

    assert {"dataroot_lq", "filename_tmpl", "meta_info_file", "gt_size"} <= keys_in_source(PairedImageDataset)
    assert {"net_d_iters", "pixel_opt", "perceptual_opt", "ema_decay"} <= keys_in_source(ESRGANModel)
    assert keys_in_source(type("Nowhere", (), {"__module__": "nowhere"})) == set()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: &a [*a]", "not valid YAML"),
        ("a: !!binary aGk=", "could not determine a constructor"),
        ("a: !!set {b}", "could not determine a constructor"),
        ("a: " + "[" * 60 + "]" * 60, "more than 40 deep"),
        ("a: " + "[" * 1500, "more than 40 deep|not valid YAML"),
        ("a: 0x" + "f" * 6000, "a whole number of 24000 bits is too large"),
        ("a: " + "9" * 6000, "not valid YAML"),
        ('a: "x\\0y"', "holds a character that no name can have"),
    ],
)
def test_values_that_are_no_options_are_refused(tmp_path, text, match):
    path = tmp_path / "x.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=match):
        load_yaml(str(path))


def test_aliases_that_unfold_without_end_are_refused_in_no_time(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (tmp_path / "x.yml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match="more than 100,000 values"):
        load_yaml(str(tmp_path / "x.yml"))


def test_a_date_is_a_text_and_shared_blocks_are_apart(tmp_path):
    (tmp_path / "x.yml").write_text("name: 2024-01-02\na: &a {x: [1]}\nb: *a", encoding="utf-8")
    options = load_yaml(str(tmp_path / "x.yml"))
    assert options == {"name": "2024-01-02", "a": {"x": [1]}, "b": {"x": [1]}}
    options["a"]["x"].append(2)
    assert options["b"] == {"x": [1]}
    assert yaml.safe_load("name: 2024-01-02")["name"] != "2024-01-02"


@pytest.mark.slow
def test_the_last_state_is_saved_whenever_training_ends(folder):
    options = tiny_options()
    options["logger"]["save_checkpoint_freq"] = 4
    del options["datasets"]["val"], options["val"]
    write_options(folder, options)
    done = run(folder, "train", "-opt", "options.yml")
    assert done.returncode == 0, done.stderr
    states = folder / "experiments/tiny/training_states"
    assert sorted(path.name for path in states.glob("*.state")) == ["4.state", "6.state"]
    done = run(folder, "train", "-opt", "options.yml", "--auto_resume", "--force_yml", "train:total_iter=7")
    assert done.returncode == 0, done.stderr
    assert ", iteration 6." in done.stderr


def test_only_the_folders_of_a_run_are_made_whatever_path_holds(folder):
    options = {**PAIRED, "path": {"ignore_resume_networks": ["network_g"], "elsewhere": "made"}}
    write_options(folder, options)
    done = run(folder, "train", "-opt", "options.yml")
    assert done.returncode == 0, done.stderr
    assert not (folder / "made").exists()
