"""Every repair of BasicSR 1.4.2 (2022, its last release) on today's libraries: one function each, with its reason.

`import nlcl_plugin` applies them all; applying them twice changes nothing. They also serve stock BasicSR scripts that
import `nlcl_plugin` first.
"""

from __future__ import annotations

import functools
import inspect
import io
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.overrides import TorchFunctionMode

from nlcl_plugin.data.files import written_whole
from nlcl_plugin.data.image_io import list_images
from nlcl_plugin.data.image_sources import pair_images
from nlcl_plugin.errors import InputError
from nlcl_plugin.metrics.quality import psnr, ssim


def repair_basicsr() -> None:
    """Apply every repair of this file."""
    restore_functional_tensor()
    restore_scipy_filters()
    find_installed_basicsr()
    share_lmdb_environments()
    find_images_as_training_does()
    read_lists_of_any_editor()
    draw_anew_every_epoch()
    reseed_workers_every_epoch()
    launch_without_gpu()
    wrap_networks_without_gpu()
    resume_without_gpu()
    save_whole_files()
    load_weights_wherever_they_are()
    say_what_networks_are()
    hold_the_whole_state()
    pass_on_prefetch_errors()
    measure_equal_and_small_images()
    stay_on_the_device()
    validate_videos()
    validate_hifacegan_in_processes()
    align_frames_without_gpu()
    filter_any_layout()
    compute_styles_without_extensions()


def restore_functional_tensor() -> None:
    """`import basicsr` needs `torchvision.transforms.functional_tensor`, which is gone since torchvision 0.17."""
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules:
        return
    try:
        __import__(name)
    except ModuleNotFoundError:
        from torchvision.transforms.functional import rgb_to_grayscale

        module = ModuleType(name, "The part of the former torchvision module that BasicSR 1.4.2 uses.")
        module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules[name] = module


def restore_scipy_filters() -> None:
    """BasicSR takes filters from `scipy.ndimage.filters`, a name that warns today and is gone in SciPy 2."""
    ndimage: Any = import_module("scipy.ndimage")
    sys.modules["scipy.ndimage.filters"] = ndimage.filters = ndimage


def find_installed_basicsr() -> None:
    """A clone that was never installed shadows BasicSR in the current folder, and lacks a file that installing makes.

    Raises:
        ImportError: Saying what is in the way and what to do.
    """
    try:
        import basicsr  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "basicsr.version":
            raise
        spec = find_spec("basicsr")
        folder = Path(spec.origin).parent.parent if spec is not None and spec.origin else Path.cwd()
        raise ImportError(
            f"{folder} has a clone of BasicSR that is not installed and is found before an installed one; start from "
            "another folder (the one of your own project), or install the clone there: pip install -e ."
        ) from error


def share_lmdb_environments() -> None:
    """Lmdb >= 2 refuses to open a path twice in a process, so training and validating on one LMDB died."""
    from basicsr.utils.file_client import LmdbBackend

    from nlcl_plugin.data.lmdb_store import open_environment

    def __init__(  # noqa: N807
        self: Any,
        db_paths: str | list[str],
        client_keys: str | list[str] = "default",
        readonly: bool = True,
        lock: bool = False,
        readahead: bool = False,
        **kwargs: Any,
    ) -> None:
        paths = [str(path) for path in (db_paths if isinstance(db_paths, list) else [db_paths])]
        names = client_keys if isinstance(client_keys, list) else [client_keys]
        if len(paths) != len(names):
            raise ValueError(f"client_keys and db_paths must be as many, but received {len(names)} and {len(paths)}")
        self.db_paths = paths
        self._paths = dict(zip(names, paths, strict=True))

    def get(self: Any, filepath: str, client_key: str) -> bytes | None:
        # Looked up at each read, so that a forked worker opens an environment of its own.
        return open_environment(self._paths[client_key]).get(str(filepath).encode("ascii"))

    LmdbBackend.__init__ = __init__
    LmdbBackend.get = get


def find_images_as_training_does() -> None:
    """Images in sub-folders were not seen, Thumbs.db was taken for one, a.png and a.jpg were no pair.

    A missing file of a list was missed when it was read, in the middle of an epoch.
    """
    from basicsr.data import data_util, paired_image_dataset, realesrgan_paired_dataset, single_image_dataset

    listed = data_util.paired_paths_from_meta_info_file

    def scandir(root: str, full_path: bool = True) -> list[str]:
        return [os.path.join(root, name) for name in list_images(root)]

    def paired_paths_from_folder(folders: list[str], keys: list[str], filename_tmpl: str) -> list[dict[str, str]]:
        try:
            pairs = pair_images(folders[0], folders[1], filename_tmpl)
        except InputError as error:
            raise InputError(f"dataroot_lq: {error}") from error
        return [{f"{key}_path": path for key, path in zip(keys, pair, strict=True)} for pair in pairs]

    @functools.wraps(listed)
    def paired_paths_from_meta_info_file(
        folders: list[str], keys: list[str], meta_info_file: str, filename_tmpl: str
    ) -> list[dict[str, str]]:
        pairs = listed(folders, keys, meta_info_file, filename_tmpl)
        missing = [path for pair in pairs for path in pair.values() if not os.path.isfile(path)]
        if missing:
            raise InputError(
                f"meta_info_file: {meta_info_file} lists {len(missing)} images that are not there, such as "
                f"{missing[0]}; correct the list or the folders"
            )
        return pairs

    data_util.paths_from_folder = single_image_dataset.scandir = scandir
    for module in (data_util, paired_image_dataset, realesrgan_paired_dataset):
        module.paired_paths_from_folder = paired_paths_from_folder
        if module is not realesrgan_paired_dataset:
            module.paired_paths_from_meta_info_file = paired_paths_from_meta_info_file


def read_lists_of_any_editor() -> None:
    """A byte order mark became a part of the first name in a list of images, and a blank line was a name."""
    import basicsr.data

    for module in (*basicsr.data._dataset_modules, basicsr.data.data_util):
        module.open = _open_list


def _open_list(path: str, mode: str = "r") -> io.StringIO:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read as UTF-8 text ({error}); save it as such") from error
    return io.StringIO("".join(f"{line}\n" for line in lines if line.strip()))


def draw_anew_every_epoch() -> None:
    """Datasets could not know the epoch, and an epoch could not be gone on with in its middle.

    In the place of `EnlargedSampler`; in one process the order of the images is the same.
    """
    import basicsr.data.data_sampler
    import basicsr.train

    from nlcl_plugin.data.sampler import EpochSampler

    basicsr.data.data_sampler.EnlargedSampler = EpochSampler
    basicsr.train.EnlargedSampler = EpochSampler


def reseed_workers_every_epoch() -> None:
    """Loader workers were seeded with a constant, so stock datasets cut and flipped alike in every epoch."""
    import basicsr.data

    basicsr.data.worker_init_fn = _seed_worker


def _seed_worker(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    # torch.initial_seed() in a worker is a base seed drawn anew for each epoch from the main process (whose seed holds
    # the rank), plus the worker's number.
    worker_seed = torch.initial_seed() % 2**32
    np.random.seed(worker_seed)  # noqa: NPY002  stock datasets use the global generators
    random.seed(worker_seed)


def launch_without_gpu() -> None:
    """`init_dist` divided by the number of GPUs, used the global rank as device, and ignored the port.

    Under Slurm it took whatever a shell printed for the first host's name, and overruled MASTER_ADDR.
    """
    import basicsr.utils.dist_util

    basicsr.utils.dist_util._init_dist_pytorch = _init_process_group
    basicsr.utils.dist_util._init_dist_slurm = _init_process_group_of_slurm


def _init_process_group(backend: str, port: int | None = None, timeout: float | None = None, **kwargs: Any) -> None:
    if port is not None:
        os.environ.setdefault("MASTER_PORT", str(port))
    if timeout is not None:
        kwargs["timeout"] = timedelta(seconds=timeout)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", os.environ["RANK"])) % torch.cuda.device_count())
    elif backend == "nccl":
        backend = "gloo"
    if torch.distributed.is_torchelastic_launched():
        store, rank, world_size = next(torch.distributed.rendezvous("env://"))
        store = _store_of_this_attempt(store, rank, world_size, timeout or 1800)
        kwargs.update(store=store, rank=rank, world_size=world_size)
    torch.distributed.init_process_group(backend=backend, **kwargs)


def _store_of_this_attempt(store: Any, rank: int, world_size: int, timeout: float) -> Any:
    """The part of torchrun's store that the processes of this attempt have to themselves.

    torchrun keeps its store over restarts, and torch 2.15 finds the addresses of the dead processes in it. The number
    of restarts tells attempts apart on one host only: another host's agent does not count those it takes part in. So
    rank 0 names the attempt, and answers by that name, which a dead one does not.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("attempt", own)
        for other in range(1, world_size):
            store.wait([f"{own}/asked/{other}"], timedelta(seconds=timeout))
            store.set(f"{own}/answered/{store.get(f'{own}/asked/{other}').decode()}", "")
        return torch.distributed.PrefixStore(own, store)
    deadline = time.monotonic() + timeout
    while True:
        attempt = store.get("attempt").decode()
        store.set(f"{attempt}/asked/{rank}", own)
        try:
            store.wait([f"{attempt}/answered/{own}"], timedelta(seconds=1))
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
        else:
            return torch.distributed.PrefixStore(attempt, store)


def _init_process_group_of_slurm(backend: str, port: int | None = None, **kwargs: Any) -> None:
    environment = os.environ
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = environment["SLURM_NTASKS"]
    environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", environment["SLURM_PROCID"])
    if "MASTER_ADDR" not in environment:
        environment["MASTER_ADDR"] = _first_host_of_slurm()
    _init_process_group(backend, port=29500 if port is None else port, **kwargs)


def _first_host_of_slurm() -> str:
    # The step's hosts, as srun can be told to use a part of the job's.
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    hosts = next((os.environ[name] for name in names if os.environ.get(name)), None)
    if hosts is None:
        raise InputError(f"--launcher slurm: none of {', '.join(names)} is set; start with srun, or set MASTER_ADDR")
    command = ["scontrol", "show", "hostnames", hosts]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        reason = "it shows none"
    except (OSError, subprocess.SubprocessError) as error:
        shown = []
        reason = " ".join(str(getattr(error, "stderr", None) or error).split())
    if not shown:
        raise InputError(f"--launcher slurm: `{' '.join(command)}` fails ({reason}); set MASTER_ADDR to the first host")
    return shown[0]


def wrap_networks_without_gpu() -> None:
    """`model_to_device` gave DistributedDataParallel a CUDA device id, which fails on a CPU."""
    from basicsr.models.base_model import BaseModel

    def model_to_device(self: Any, net: nn.Module) -> nn.Module:
        net = net.to(self.device)
        if self.opt["dist"] and any(p.requires_grad for p in net.parameters()):
            device_ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
            unused = self.opt.get("find_unused_parameters", False)
            return DistributedDataParallel(net, device_ids=device_ids, find_unused_parameters=unused)
        if not self.opt["dist"] and self.opt["num_gpu"] > 1:
            return DataParallel(net)
        return net

    BaseModel.model_to_device = model_to_device


def resume_without_gpu() -> None:
    """`load_resume_state` asked for the current CUDA device, and looked for states below the current folder only."""
    import basicsr.train

    basicsr.train.load_resume_state = load_resume_state


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Load the training state to resume from, as `engine.checkpoint.load_resume_state` does."""
    from nlcl_plugin.engine import checkpoint  # late: it needs BasicSR, repaired

    return checkpoint.load_resume_state(opt)


def save_whole_files() -> None:
    """A kill left half a checkpoint under its final name, errors were swallowed, and loading one could run code."""
    from basicsr.models import base_model

    # BasicSR's module calls `torch.save` and `torch.load`; only there they now mean these.
    base_model.torch = _TorchWithSafeFiles("torch")


class _TorchWithSafeFiles(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def save(content: Any, path: str) -> None:
        """`torch.save` to a temporary file that gets its name when it is whole and on the disk."""
        try:
            with written_whole(path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:  # torch raises the latter when a disk is full
            # Nothing tries again: of BasicSR's methods that save, ours have taken the place.
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
            raise InputError(
                f"{path}: cannot be saved ({reason}); make room, then go on from the checkpoint before it with "
                "--auto_resume"
            ) from error

    @staticmethod
    def load(path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Tensors and plain values, no larger than the file; a .safetensors file has its weights under `params`."""
        from nlcl_plugin.engine.plain_file import load_plain

        content = load_plain(Path(path))
        return {"params": content} if Path(path).suffix == ".safetensors" else content


def load_weights_wherever_they_are() -> None:
    """`load_network` knew one key and `params`; models asked for `params_ema` of files that have none."""
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import get_root_logger

    def load_network(self: Any, net: nn.Module, load_path: str, strict: bool = True, param_key: Any = "params") -> None:
        from nlcl_plugin.engine.plain_file import weights_key, weights_of  # late: `engine` needs BasicSR, repaired

        net, paths = self.get_bare_model(net), self.opt.get("path") or {}
        option = next((key for key, path in paths.items() if "pretrain_network" in key and path == load_path), "")
        given = option.replace("pretrain_network", "param_key")
        keys = (param_key, paths.get(given))  # models load averages by a key of their own
        name = type(net).__name__
        try:
            content = _TorchWithSafeFiles.load(load_path)
            weights = weights_of(content, Path(load_path), *keys)
            get_root_logger().info(f"Loading {name} from {load_path}, with param key: [{weights_key(content, *keys)}].")
            self._print_different_keys_loading(net, weights, strict)
            net.load_state_dict(weights, strict=strict)
        except (InputError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300].replace("param_key_X", given or "param_key_X")
            where, network = (f"path.{option}: ", option.removeprefix("pretrain_")) if option else ("", name)
            raise InputError(f"{where}{load_path} does not fit {network} or is no checkpoint ({reason})") from error

    BaseModel.load_network = load_network


def say_what_networks_are() -> None:
    """A saved network did not say of which architecture it is; see `engine.network_about`."""
    from basicsr.models.base_model import BaseModel
    from basicsr.utils.dist_util import master_only

    @master_only
    def save_network(
        self: Any, net: Any, net_label: str, current_iter: int, param_key: str | list[str] = "params"
    ) -> None:
        from nlcl_plugin.engine.network_about import describe  # late: it imports this package

        nets = [self.get_bare_model(one) for one in (net if isinstance(net, list) else [net])]
        keys = param_key if isinstance(param_key, list) else [param_key]
        if len(nets) != len(keys):
            raise ValueError(f"net and param_key must be as many, but received {len(nets)} and {len(keys)}")
        content: dict[str, Any] = {}
        for one, key in zip(nets, keys, strict=True):
            content[key] = one.state_dict()
            for name in list(content[key]):
                content[key][name.removeprefix("module.")] = content[key].pop(name).cpu()
        label = net_label.removeprefix("net_")
        if isinstance(self.opt.get(f"network_{label}"), dict):
            last = getattr(self, "current_iter", None) or (self.opt.get("train") or {}).get("total_iter")
            iteration = last if current_iter == -1 else current_iter
            content["about"] = describe(self.opt[f"network_{label}"], label, net=nets[0], iteration=iteration)
            for key in keys:  # for readers that take the weights alone, such as nlcl_plugin.spandrel_support
                content[key]._metadata[""]["about"] = content["about"]
        file = f"{net_label}_{'latest' if current_iter == -1 else current_iter}.pth"
        _TorchWithSafeFiles.save(content, os.path.join(self.opt["path"]["models"], file))

    BaseModel.save_network = save_network


def hold_the_whole_state() -> None:
    """Training states held optimizers and schedules only; what else a model has goes in by `extra_state`."""
    from basicsr.models.base_model import BaseModel
    from basicsr.utils.dist_util import master_only

    @master_only
    def save_training_state(self: Any, epoch: int, current_iter: int) -> None:
        if current_iter == -1:  # the last networks need no state
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            **getattr(self, "extra_state", {}),
        }
        _TorchWithSafeFiles.save(state, os.path.join(self.opt["path"]["training_states"], f"{current_iter}.state"))

    BaseModel.save_training_state = save_training_state


def pass_on_prefetch_errors() -> None:
    """With `prefetch_mode: cpu`, an unreadable image ended the loading thread and training waited for ever."""
    from basicsr.data.prefetch_dataloader import PrefetchGenerator

    def run(self: Any) -> None:
        try:
            for item in self.generator:
                self.queue.put(item)
            self.queue.put(None)
        except Exception as error:
            self.queue.put(error)

    def __next__(self: Any) -> Any:  # noqa: N807
        item = self.queue.get()
        if item is None:
            raise StopIteration
        if isinstance(item, Exception):
            raise item
        return item

    PrefetchGenerator.run = run
    PrefetchGenerator.__next__ = __next__


def measure_equal_and_small_images() -> None:
    """PSNR was infinite for equal images and SSIM NaN below 11 pixels, which made means of a validation the same."""
    import basicsr.metrics
    from basicsr.metrics.metric_util import reorder_image
    from basicsr.utils.registry import METRIC_REGISTRY

    def calculate(
        measure: Any,
        img: Any,
        img2: Any,
        crop_border: int,
        input_order: str = "HWC",
        test_y_channel: bool = False,
        **_: Any,
    ) -> float:
        first, second = (reorder_image(image, input_order)[..., ::-1] for image in (img, img2))  # BGR to RGB
        return measure(first, second, crop_border, test_y_channel)

    for name, measure in (("calculate_psnr", psnr), ("calculate_ssim", ssim)):
        stock = inspect.unwrap(METRIC_REGISTRY.get(name))  # whose signature the check of options looks at
        METRIC_REGISTRY._obj_map[name] = functools.wraps(stock)(functools.partial(calculate, measure))
        setattr(basicsr.metrics, name, METRIC_REGISTRY.get(name))


def stay_on_the_device() -> None:
    """RealESRGAN's models and the validation of videos asked for CUDA by name, also with `num_gpu: 0`."""
    from basicsr.models.realesrgan_model import RealESRGANModel
    from basicsr.models.realesrnet_model import RealESRNetModel
    from basicsr.models.video_base_model import VideoBaseModel
    from basicsr.models.video_recurrent_model import VideoRecurrentModel

    for model in (RealESRGANModel, RealESRNetModel):
        model.__init__ = _on_its_device(model.__init__)
        model._dequeue_and_enqueue = _on_its_device(model._dequeue_and_enqueue)
    for model in (VideoBaseModel, VideoRecurrentModel):
        model.dist_validation = _on_its_device(model.dist_validation)


def _on_its_device(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        opt = getattr(self, "opt", None) or kwargs.get("opt") or args[0]  # a constructor is given them
        if opt["num_gpu"] != 0:
            return method(self, *args, **kwargs)
        with _CudaMeansCpu():
            return method(self, *args, **kwargs)

    return wrapped


class _CudaMeansCpu(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def validate_videos() -> None:
    """On a CPU a video's validation squeezed the model's own input; a second dataset met the figures of the first.

    The figures of a dataset, one per frame, become one per metric, as those of images: the mean over its folders.
    """
    from basicsr.models.video_base_model import VideoBaseModel
    from basicsr.models.video_recurrent_model import VideoRecurrentModel

    def feed_data(self: Any, data: dict[str, Any]) -> None:
        # Tensors of their own, as `squeeze_` changes the shape of those in the dict.
        views = {key: value.view_as(value) if torch.is_tensor(value) else value for key, value in data.items()}
        super(VideoRecurrentModel, self).feed_data(views)

    def validation(self: Any, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool = False) -> None:
        metrics = self.opt["val"].setdefault("metrics", None)
        vars(self).pop("metric_results", None)
        super(VideoBaseModel, self).validation(dataloader, current_iter, tb_logger, save_img)
        if metrics is not None:
            folders = torch.stack([frames.mean(dim=0) for frames in self.metric_results.values()])
            self.metric_results = dict(zip(metrics, folders.mean(dim=0).tolist(), strict=True))

    VideoRecurrentModel.feed_data = feed_data
    VideoBaseModel.validation = validation


def validate_hifacegan_in_processes() -> None:
    """In a process group HiFaceGAN's validation took a way that BasicSR itself calls unfinished and that fails."""
    from basicsr.models.hifacegan_model import HiFaceGANModel
    from basicsr.models.sr_model import SRModel

    HiFaceGANModel.nondist_validation = SRModel.nondist_validation


def align_frames_without_gpu() -> None:
    """Without a GPU BasicVSR++ left out its alignment: another network, which the weights of the whole do not fit."""
    from basicsr.archs import basicvsrpp_arch

    class TorchThatAligns(ModuleType):
        cuda = SimpleNamespace(is_available=lambda: True, empty_cache=torch.cuda.empty_cache)

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    basicvsrpp_arch.torch = TorchThatAligns("torch")


def filter_any_layout() -> None:
    """`filter2D` failed on images that are not contiguous, which resizing on a CPU returns."""
    from basicsr.models import realesrgan_model, realesrnet_model
    from basicsr.utils import img_process_util

    def filter2D(img: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:  # noqa: N802
        return stock(img.contiguous(), kernel)

    stock = img_process_util.filter2D
    for module in (img_process_util, realesrgan_model, realesrnet_model):
        module.filter2D = filter2D


def compute_styles_without_extensions() -> None:
    """StyleGAN2's operations need compiled CUDA code, which pip does not build; torch computes the same."""
    from basicsr.archs import stylegan2_arch
    from basicsr.ops.fused_act import fused_act

    def fused_leaky_relu(
        input: torch.Tensor, bias: torch.Tensor, negative_slope: float = 0.2, scale: float = 2**0.5
    ) -> torch.Tensor:
        if input.is_cuda and hasattr(fused_act, "fused_act_ext"):
            return fused_act.FusedLeakyReLUFunction.apply(input, bias, negative_slope, scale)
        return F.leaky_relu(input + bias.view(1, -1, *[1] * (input.ndim - 2)), negative_slope) * scale

    def upfirdn2d(
        input: torch.Tensor, kernel: torch.Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)
    ) -> torch.Tensor:
        return resampling.upfirdn2d_native(input, kernel, up, up, down, down, *pad, *pad)

    resampling: Any = sys.modules["basicsr.ops.upfirdn2d.upfirdn2d"]  # the package has a function of this name
    fused_act.fused_leaky_relu = stylegan2_arch.fused_leaky_relu = fused_leaky_relu
    if not hasattr(resampling, "upfirdn2d_ext"):
        stylegan2_arch.upfirdn2d = upfirdn2d
