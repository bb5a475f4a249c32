"""PSNR, SSIM and NIQE of derained images, on 8-bit RGB."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from nlcl_plugin.data.image_io import to_uint8


class _ImageMetric(BaseMetric):
    """Mean over images of a figure of each; `data_samples` are what `NLCLDerain` predicts."""

    default_prefix = "derained"
    needs_truth = True

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Take the figures of a batch; images without ground truth, where it is needed, are left out."""
        for sample in data_samples:
            if not self.needs_truth:
                self.results.append(self.measure(to_uint8(sample["result"]), None))
            elif "gt" in sample:
                self.results.append(self.measure(to_uint8(sample["result"]), to_uint8(sample["gt"])))

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """The mean, by the name of the metric; images that have no figure are left out."""
        known = [result for result in results if not np.isnan(result)]
        return {type(self).__name__.lower(): float(np.mean(known)) if known else float("nan")}

    def measure(self, image: np.ndarray, truth: np.ndarray | None) -> float:
        """The figure of one image (H, W, 3), uint8 RGB."""
        raise NotImplementedError


class PSNR(_ImageMetric):
    """Peak signal-to-noise ratio in dB, higher is better."""

    def measure(self, image: np.ndarray, truth: np.ndarray | None) -> float:
        """The figure of one image (H, W, 3), uint8 RGB."""
        assert truth is not None
        error = float(np.mean((image.astype(np.float64) - truth) ** 2))
        return float(10 * np.log10(255**2 / error)) if error else float("inf")


class SSIM(_ImageMetric):
    """Structural similarity (Wang et al., TIP 2004), 11×11 Gaussian window, mean over channels; higher is better."""

    def measure(self, image: np.ndarray, truth: np.ndarray | None) -> float:
        """The figure of one image (H, W, 3), uint8 RGB."""
        from skimage.metrics import structural_similarity

        return float(
            structural_similarity(
                image.astype(np.float64),
                truth.astype(np.float64) if truth is not None else None,
                data_range=255,
                channel_axis=2,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )


class NIQE(_ImageMetric):
    """Naturalness without ground truth, by BasicSR's implementation; lower is better.

    Raises:
        ModuleNotFoundError: If BasicSR is not installed.
    """

    needs_truth = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if find_spec("basicsr") is None:
            raise ModuleNotFoundError("the metric NIQE is BasicSR's: pip install basicsr==1.4.2, or remove the metric")

    def measure(self, image: np.ndarray, truth: np.ndarray | None) -> float:
        """The figure of one image (H, W, 3), uint8 RGB."""
        from nlcl_plugin.metrics.niqe import niqe

        value = niqe(image)
        return float("nan") if value is None else value
