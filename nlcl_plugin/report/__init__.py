"""What a training looks like: one self-contained page."""

from nlcl_plugin.report.page import write_report

__all__ = ["write_report"]
