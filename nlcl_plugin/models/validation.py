"""Validation and testing of models that split an image into layers."""

from __future__ import annotations

import contextlib
import csv
import math
import os
from collections.abc import Iterator
from os import path as osp
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import get_root_logger, imwrite, tensor2img
from torch.utils.data import DataLoader

from nlcl_plugin.data.files import inner_name
from nlcl_plugin.data.progress import ProgressBar
from nlcl_plugin.errors import InputError, counted, escape
from nlcl_plugin.metrics.niqe import niqe
from nlcl_plugin.metrics.quality import finite_mean
from nlcl_plugin.pictures import fit

# Computed when the option file names no metrics: these with ground truth, NIQE without.
PAIRED_METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False},
    "ssim": {"type": "calculate_ssim", "crop_border": 0, "test_y_channel": False},
}
BLIND_METRICS = {"niqe": {"type": "calculate_niqe", "crop_border": 0}}
TB_IMAGES, TB_WIDTH = 3, 256  # pictures of a dataset for TensorBoard at each validation, and pixels of each image

_Derained = tuple[str, dict[str, float], dict[str, np.ndarray]]  # path, metrics, pictures


class ValidationMixin:
    """Validation for a BasicSR model whose visuals are `lq`, `result`, `rain` and, where it is known, `gt`.

    PSNR and SSIM where there is ground truth, NIQE where there is none, unless `val.metrics` says otherwise. In
    testing the derained images are saved under their own names and the figures of each image in `metrics.csv`.
    """

    opt: dict[str, Any]
    best_metric_results: dict[str, dict[str, dict[str, Any]]]

    def dist_validation(self, dataloader: DataLoader, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Validate, each process on every so many-th image; the first process writes."""
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: DataLoader, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Derain every image of a dataset, save pictures and log the metrics; TensorBoard gets a few small pictures."""
        dataset: Any = dataloader.dataset
        name = dataset.opt["name"]
        rank, processes = (self.opt["rank"], self.opt["world_size"]) if self.opt["dist"] else (0, 1)
        wanted = self.opt.get("val", {}).get("pbar", not self.opt["is_train"]) and rank == 0
        rows: list[dict[str, Any]] = []
        names: set[str] = set()
        faults: list[Exception] = []

        @contextlib.contextmanager
        def faults_kept() -> Iterator[None]:
            """Keep an error until the last round, as the other processes wait for this one in each."""
            try:
                yield
            except Exception as error:
                faults.append(error)

        # In rounds of one image per process, so that the first one can write the pictures of a round before the next.
        batches = iter(DataLoader(dataset, batch_size=1, sampler=range(rank, len(dataset), processes)))
        rounds = range(math.ceil(len(dataset) / processes))
        for number in ProgressBar(rounds, unit="round", desc=name, shown=wanted):
            own = None
            with faults_kept():
                data = next(batches, None) if not faults else None  # the last round may not need all processes
                logged = tb_logger is not None and number < TB_IMAGES  # the first process has the writer
                own = self._derained(data, keep_images=save_img or logged) if data is not None else None
                if own and logged:
                    tag = escape(f"{name}/{osp.basename(own[0])}")
                    tb_logger.add_image(tag, _small(own[2]), current_iter, dataformats="HWC")
            collected = _collected(own, processes)
            with faults_kept():
                for path, values, images in filter(None, collected):
                    image_name = _output_name(path, dataset.opt.get("dataroot_lq"), names)
                    rows.append({"image": image_name, **values})
                    if save_img:
                        self._save_pictures(images, name, image_name, current_iter)
        _raise_in_all(faults, processes)
        if rank == 0:
            self._log_metrics(name, rows, current_iter, tb_logger)
            if not self.opt["is_train"] and rows:
                folder = self.opt["path"]["visualization"]
                _write_csv(osp.join(osp.dirname(folder), f"{name}_metrics.csv"), rows)

    def _derained(self, data: dict[str, Any], *, keep_images: bool) -> _Derained:
        self.feed_data(data)  # type: ignore[attr-defined]
        self.test()  # type: ignore[attr-defined]
        visuals = self.get_current_visuals()  # type: ignore[attr-defined]
        images = {key: tensor2img(value) for key, value in visuals.items()}  # BGR, 8 bit
        path = data["lq_path"][0]
        values = self._measure(path, images)
        if not torch.isfinite(visuals["result"]).all():  # then figures of 8-bit values mean nothing
            values = dict.fromkeys(values, math.nan)
        return path, values, images if keep_images else {}

    def _measure(self, image: str, images: dict[str, np.ndarray]) -> dict[str, float]:
        paired = "gt" in images
        metrics = self.opt.get("val", {}).get("metrics") or (PAIRED_METRICS if paired else BLIND_METRICS)
        values: dict[str, float] = {}
        for name, options in metrics.items():
            if options["type"] == "calculate_niqe":
                border = int(options.get("crop_border", 0))  # type: ignore[arg-type]
                for key, picture in ((name, images["result"]), (f"{name}_rainy", images["lq"])):
                    values[key] = niqe(picture[..., ::-1], border)
            elif paired:
                if images["gt"].shape != images["result"].shape:
                    result, truth = ("×".join(map(str, images[key].shape[1::-1])) for key in ("result", "gt"))
                    raise InputError(f"{image}: derained {result}, ground truth {truth}; pairs must have one size")
                data = {"img": images["result"], "img2": images["gt"]}
                figure = calculate_metric(data, {k: v for k, v in options.items() if k != "better"})
                values[name] = math.nan if figure is None else float(figure)
        return values

    def _save_pictures(self, images: dict[str, np.ndarray], dataset: str, image: str, current_iter: Any) -> None:
        layers = np.concatenate([images["lq"], images["result"], images["rain"]], axis=1)
        folder = osp.join(self.opt["path"]["visualization"], dataset)
        if self.opt["is_train"]:
            imwrite(layers, osp.join(folder, image, f"{osp.basename(image)}_{current_iter}.png"))
            return
        suffix = self.opt.get("val", {}).get("suffix")
        named = inner_name(f"{image}_{suffix}") if suffix else image
        imwrite(images["result"], osp.join(folder, f"{named}.png"))
        imwrite(layers, osp.join(f"{folder}_layers", f"{image}.png"))

    def _log_metrics(self, dataset: str, rows: list[dict[str, Any]], current_iter: Any, tb_logger: Any) -> None:
        means: dict[str, float] = {}
        texts = []
        for key in sorted({key for row in rows for key in row if key != "image"}):
            value, left_out = finite_mean([(row["image"], row[key]) for row in rows if key in row])
            if math.isnan(value):
                texts.append(f"{key}{left_out}")
                continue
            means[key] = value
            best = self._keep_best(dataset, key, value, current_iter)
            since = f" (best {best['val']:.4f} @ {best['iter']})" if self.opt["is_train"] else ""
            texts.append(f"{key} {value:.4f}{left_out}{since}")
            if tb_logger:
                tb_logger.add_scalar(f"metrics/{dataset}/{key}", value, current_iter)
        found = ", ".join(texts) or "no metric applies"
        get_root_logger().info(f"Validation {dataset} ({counted(len(rows), 'image')}): {found}")
        self.metric_results = means  # BasicSR's: of the dataset validated last
        self.last_metrics: dict[str, dict[str, float]] = {**getattr(self, "last_metrics", {}), dataset: means}

    def _keep_best(self, dataset: str, metric: str, value: float, current_iter: Any) -> dict[str, Any]:
        """The best value of a metric so far, with its iteration."""
        known = self.opt.get("val", {}).get("metrics") or {**PAIRED_METRICS, **BLIND_METRICS}
        options = known.get(metric) or known[metric.removesuffix("_rainy")]
        better = options.get("better", "lower" if options["type"] == "calculate_niqe" else "higher")
        if not hasattr(self, "best_metric_results"):
            self.best_metric_results = {}
        record = self.best_metric_results.setdefault(dataset, {})
        best = record.get(metric)
        if best is None or not (best["val"] < value if better == "lower" else best["val"] > value):
            record[metric] = {"better": better, "val": value, "iter": current_iter}
        return record[metric]


def _collected(own: _Derained | None, processes: int) -> list[_Derained | None]:
    """Results of all processes in a round, in the order of the images, on the first one; elsewhere nothing."""
    if processes == 1:
        return [own]
    first = torch.distributed.get_rank() == 0
    gathered: list[_Derained | None] = [None] * processes if first else []
    torch.distributed.gather_object(own, gathered if first else None)
    return gathered


def _raise_in_all(faults: list[Exception], processes: int) -> None:
    """Raise the first error of this process, or else that of another; all processes must call this."""
    own = faults[0] if faults else None
    mine = (isinstance(own, InputError), str(own), type(own).__name__) if own is not None else None
    everyones: list[Any] = [mine] * processes
    if processes > 1:
        torch.distributed.all_gather_object(everyones, mine)
    if own is not None:
        raise own
    for expected, message, kind in filter(None, everyones):
        raise InputError(message) if expected else RuntimeError(f"another process failed: {kind}: {message}")


def _small(images: dict[str, np.ndarray]) -> np.ndarray:
    """Rainy, derained and rain side by side (H, W, 3), RGB, small enough to be logged again and again."""
    layers = [fit(images[key], TB_WIDTH, enlarge=False) for key in ("lq", "result", "rain")]
    return cv2.cvtColor(np.concatenate(layers, axis=1), cv2.COLOR_BGR2RGB)


def _output_name(path: str, root: str | None, taken: set[str]) -> str:
    """Name of an image's output: its path below the root without suffix, except where two would be equal."""
    inside = root is not None and osp.abspath(path).startswith(osp.abspath(root) + os.sep)
    # Never an absolute path: joined to the output folder it would lead out of it.
    relative = osp.relpath(path, root) if inside else osp.basename(path)
    name = inner_name(osp.splitext(relative)[0])
    if name in taken:
        name = inner_name(relative)
    taken.add(name)
    return name


def _write_csv(path: str, rows: list[dict[str, Any]]) -> None:
    columns = ["image", *sorted({key for row in rows for key in row if key != "image"})]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            known = {key: value for key, value in row.items() if key == "image" or math.isfinite(value)}
            writer.writerow({**known, "image": escape(row["image"])})
