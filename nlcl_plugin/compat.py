"""Every repair of BasicSR 1.4.2 (2022, its last release) on today's libraries: one function each, with its reason.

They are applied when BasicSR is imported after `nlcl_plugin`, and so serve stock BasicSR scripts that import it first;
applying them twice changes nothing.
"""

from __future__ import annotations

import functools
import inspect
import os
import random
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from nlcl_plugin.data.image_io import list_images
from nlcl_plugin.data.image_sources import pair_images
from nlcl_plugin.errors import InputError
from nlcl_plugin.metrics.quality import psnr, ssim


class TorchWith(ModuleType):
    """The module `torch` with some names changed, for a module of BasicSR that calls them."""

    def __init__(self, **changed: Any) -> None:
        super().__init__("torch")
        vars(self).update(changed)

    def __getattr__(self, name: str) -> Any:
        """Look up in torch what is not changed."""
        return getattr(torch, name)


def prepare_import() -> None:
    """Restore the modules that BasicSR imports and that are gone, before it is imported."""
    restore_functional_tensor()
    restore_scipy_filters()


def repair_basicsr() -> None:
    """Apply every repair of this file to BasicSR, once it is imported."""
    share_lmdb_environments()
    find_images_as_training_does()
    reseed_workers_every_epoch()
    wrap_networks_without_gpu()
    pass_on_prefetch_errors()
    measure_equal_and_small_images()
    validate_without_gpu()
    validate_videos()
    align_frames_without_gpu()


def restore_functional_tensor() -> None:
    """`import basicsr` needs `torchvision.transforms.functional_tensor`, which is gone since torchvision 0.17."""
    from torchvision.transforms.functional import rgb_to_grayscale

    module: Any = ModuleType("torchvision.transforms.functional_tensor")
    module.rgb_to_grayscale = rgb_to_grayscale  # all that BasicSR uses of it
    sys.modules.setdefault(module.__name__, module)


def restore_scipy_filters() -> None:
    """BasicSR takes filters from `scipy.ndimage.filters`, a name that warns today and is gone in SciPy 2."""
    ndimage: Any = import_module("scipy.ndimage")
    sys.modules["scipy.ndimage.filters"] = ndimage.filters = ndimage


def share_lmdb_environments() -> None:
    """Lmdb >= 2 refuses to open a path twice in a process, so training and validating on one LMDB died."""
    from basicsr.utils.file_client import LmdbBackend

    from nlcl_plugin.data.lmdb.store import open_environment

    def __init__(self: Any, db_paths: Any, client_keys: str | list[str] = "default", **_: Any) -> None:  # noqa: N807
        self.db_paths = [str(path) for path in (db_paths if isinstance(db_paths, list) else [db_paths])]
        names = client_keys if isinstance(client_keys, list) else [client_keys]
        self._paths = dict(zip(names, self.db_paths, strict=True))

    def get(self: Any, filepath: str, client_key: str) -> bytes | None:
        # Looked up at each read, so that a forked worker opens an environment of its own.
        return open_environment(self._paths[client_key]).get(str(filepath).encode("ascii"))

    LmdbBackend.__init__ = __init__
    LmdbBackend.get = get


def find_images_as_training_does() -> None:
    """Images in sub-folders were not seen, Thumbs.db was taken for one, a.png and a.jpg were no pair."""
    from basicsr.data import data_util, paired_image_dataset, realesrgan_paired_dataset, single_image_dataset

    def scandir(root: str, full_path: bool = True) -> list[str]:
        return [os.path.join(root, name) for name in list_images(root)]

    def paired_paths_from_folder(folders: list[str], keys: list[str], filename_tmpl: str) -> list[dict[str, str]]:
        try:
            pairs = pair_images(folders[0], folders[1], filename_tmpl)
        except InputError as error:
            raise InputError(f"dataroot_lq: {error}") from error
        return [{f"{key}_path": path for key, path in zip(keys, pair, strict=True)} for pair in pairs]

    data_util.paths_from_folder = single_image_dataset.scandir = scandir
    for module in (data_util, paired_image_dataset, realesrgan_paired_dataset):
        module.paired_paths_from_folder = paired_paths_from_folder


def reseed_workers_every_epoch() -> None:
    """Loader workers were seeded with a constant, so stock datasets cut and flipped alike in every epoch."""
    import basicsr.data

    basicsr.data.worker_init_fn = _seed_worker


def _seed_worker(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    # torch.initial_seed() in a worker is a base seed drawn for each epoch from the main process (whose seed
    # contains the rank), plus the worker's number.
    worker_seed = torch.initial_seed() % 2**32
    np.random.seed(worker_seed)  # noqa: NPY002  stock datasets use the global generators
    random.seed(worker_seed)


def wrap_networks_without_gpu() -> None:
    """`model_to_device` gave DistributedDataParallel a CUDA device id, which fails on a CPU."""
    from basicsr.models.base_model import BaseModel

    def model_to_device(self: Any, net: nn.Module) -> nn.Module:
        net = net.to(self.device)
        if self.opt["dist"] and any(p.requires_grad for p in net.parameters()):
            device_ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
            unused = self.opt.get("find_unused_parameters", False)
            return DistributedDataParallel(net, device_ids=device_ids, find_unused_parameters=unused)
        return DataParallel(net) if not self.opt["dist"] and self.opt["num_gpu"] > 1 else net

    BaseModel.model_to_device = model_to_device


def pass_on_prefetch_errors() -> None:
    """With `prefetch_mode: cpu`, an unreadable image ended the loading thread and training waited for ever."""
    from basicsr.data.prefetch_dataloader import PrefetchGenerator

    def run(self: Any) -> None:
        try:
            for item in self.generator:
                self.queue.put(item)
            self.queue.put(StopIteration())
        except Exception as error:
            self.queue.put(error)

    def __next__(self: Any) -> Any:  # noqa: N807
        item = self.queue.get()
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


def validate_without_gpu() -> None:
    """The validation of videos asked for CUDA by name."""
    from basicsr.models import video_base_model, video_recurrent_model

    def zeros(*size: int, device: Any, **options: Any) -> torch.Tensor:
        return torch.zeros(*size, device=device if torch.cuda.is_available() else None, **options)

    video_base_model.torch = video_recurrent_model.torch = TorchWith(zeros=zeros)


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


def align_frames_without_gpu() -> None:
    """Without a GPU BasicVSR++ left out its alignment: another network, which the weights of the whole do not fit."""
    from basicsr.archs import basicvsrpp_arch

    cuda = SimpleNamespace(is_available=lambda: True, empty_cache=torch.cuda.empty_cache)
    basicvsrpp_arch.torch = TorchWith(cuda=cuda)
