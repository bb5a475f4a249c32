"""PSNR, SSIM and NIQE of derained images, on 8-bit RGB, in MMEngine."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.metrics.niqe import niqe
from nlcl_plugin.metrics.quality import finite_mean, psnr, ssim


class _ImageMetric(BaseMetric):
    """Mean of a figure over images; `data_samples` are what `NLCLDerain` predicts."""

    default_prefix = "derained"
    keys: tuple[str, ...] = ("result", "gt")  # of the images that are measured
    measure: Callable[..., float]  # of images (H, W, 3), uint8 RGB, in that order

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Measure a batch; images without ground truth, where it is needed, are left out."""
        for sample in data_samples:
            if all(key in sample for key in self.keys):
                name = sample.get("lq_path", f"image {len(self.results)}")
                self.results.append((name, self.measure(*(to_uint8(sample[key]) for key in self.keys))))

    def compute_metrics(self, results: list[tuple[str, float]]) -> dict[str, float | None]:
        """The mean, by the name of the metric, over the images that have a finite figure; None if none has one."""
        name, (value, left_out) = type(self).__name__.lower(), finite_mean(results)
        if left_out:
            print_log(f"{name}{left_out}", "current", logging.WARNING)
        return {name: None if math.isnan(value) else value}


class PSNR(_ImageMetric):
    """Peak signal-to-noise ratio in dB, of `nlcl_plugin.metrics.psnr`; higher is better."""

    measure = staticmethod(psnr)


class SSIM(_ImageMetric):
    """Structural similarity, of `nlcl_plugin.metrics.ssim`; higher is better."""

    measure = staticmethod(ssim)


class NIQE(_ImageMetric):
    """Naturalness without ground truth, by BasicSR's implementation; lower is better."""

    keys = ("result",)
    measure = staticmethod(niqe)
