"""Testing: derain every test dataset, save images, figures and comparison pictures."""

from __future__ import annotations

from typing import Any

from basicsr.models import build_model

from nlcl_plugin.data.files import natural_key
from nlcl_plugin.models.validation import ValidationMixin
from nlcl_plugin.training.loaders import evaluation_loader
from nlcl_plugin.training.summary import summarise
from nlcl_plugin.training.train import make_folders, start_logger


def test(opt: dict[str, Any]) -> int:
    """Test the model of an option file.

    Returns:
        The exit code 0.

    Raises:
        InputError: If a file is unreadable.
    """
    make_folders(opt)
    logger = start_logger(opt, "test")
    loaders = [evaluation_loader(opt, opt["datasets"][name]) for name in sorted(opt["datasets"], key=natural_key)]
    model = build_model(opt)
    for loader in loaders:
        model.validation(loader, current_iter=opt["name"], tb_logger=None, save_img=opt["val"]["save_img"])
    if opt["rank"] == 0 and isinstance(model, ValidationMixin):
        summarise(model, loaders, opt["path"]["results_root"])
    logger.info(f"Results: {opt['path']['results_root']}")
    return 0
