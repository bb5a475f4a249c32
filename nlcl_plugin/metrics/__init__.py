"""How good images are, and the classical filters that a learned method has to beat."""

from nlcl_plugin.metrics.classical_filters import FILTERS, best_filter
from nlcl_plugin.metrics.quality import psnr, ssim

__all__ = ["FILTERS", "best_filter", "psnr", "ssim"]
