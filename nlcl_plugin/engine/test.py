"""Testing: derain every test dataset, save images, figures and comparison pictures."""

from __future__ import annotations

from typing import Any

from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model

from nlcl_plugin.data.files import natural_key
from nlcl_plugin.engine.loading import ExplainedDataset
from nlcl_plugin.engine.summary import summarise
from nlcl_plugin.engine.train import make_folders, start_logger
from nlcl_plugin.models.validation import ValidationMixin


def test(opt: dict[str, Any]) -> int:
    """Test the model of an option file.

    Args:
        opt: Options of `engine.launch.start`.

    Returns:
        The exit code 0.

    Raises:
        InputError: If a file is unreadable.
    """
    make_folders(opt)
    logger = start_logger(opt, "test")
    loaders = []
    for name in sorted(opt["datasets"], key=natural_key):
        options = opt["datasets"][name]
        dataset = ExplainedDataset(build_dataset(options))
        loaders.append(build_dataloader(dataset, options, num_gpu=opt["num_gpu"], dist=opt["dist"]))
        logger.info(f"Number of test images in {options['name']}: {len(dataset)}")
    model = build_model(opt)
    for loader in loaders:
        model.validation(loader, current_iter=opt["name"], tb_logger=None, save_img=opt["val"]["save_img"])
    if opt["rank"] == 0 and isinstance(model, ValidationMixin):
        summarise(model, loaders, opt["path"]["results_root"])
    logger.info(f"Results: {opt['path']['results_root']}")
    return 0
