"""What BasicSR's metrics lack: the classical filters that a learned method has to beat."""

from nlcl_plugin.metrics.classical_filters import FILTERS, best_filter, filter_scores, psnr_8bit

__all__ = ["FILTERS", "best_filter", "filter_scores", "psnr_8bit"]
