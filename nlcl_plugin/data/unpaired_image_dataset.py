"""Rainy and clean photographs that have nothing to do with each other, as a dataset for BasicSR."""

from __future__ import annotations

import os
from typing import Any

from nlcl_plugin.data.image_dataset import ImageDataset
from nlcl_plugin.data.image_io import to_tensor
from nlcl_plugin.data.sampler import sample_generator


class UnpairedImageDataset(ImageDataset):
    """Rainy images, each with a clean image of another scene that is drawn again in every epoch.

    The clean partner, the crops and the flips of a sample depend on (seed, epoch, draw) alone, if the sampler gives a
    `SampleIndex`; a plain int counts as that draw of epoch 0. Crops and flips of the two images are independent.

    Args:
        opt: The options; see `ImageDataset` for those not listed here:

            - phase (str): `train`, or `val` or `test` for whole rainy images alone.
            - dataroot_lq (str): The rainy images: a folder that is searched to its depth, or an LMDB.
            - dataroot_gt (str): The clean images, for training only: other scenes, other names, any count.

    Raises:
        InputError: If an option is missing or wrong.
    """

    OPTION_KEYS = (*ImageDataset.OPTION_KEYS, "dataroot_lq")

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        if self._training:
            self._clean = self._open("dataroot_gt")
        self._rainy = self._open("dataroot_lq")
        self.paths = [os.path.join(self._rainy.root, name) for name in self._rainy.names]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Load a sample.

        Returns:
            `lq`, the rainy image, and `lq_path`; in training also `gt`, a clean image of another scene, and `gt_path`.
            Images are (3, H, W) RGB float32 tensors in [0, 1].

        Raises:
            InputError: If an image cannot be read.
        """
        self._check_index(index)
        skipped: list[str] = []
        rainy, rainy_path = self._load_from(self._rainy, int(index), skipped)
        if not self._training:
            # Never the clean images, even where given: they show other scenes and are no ground truth to measure with.
            return {"lq": to_tensor(rainy), "lq_path": rainy_path}
        rng = sample_generator(self._seed, index)
        clean, clean_path = self._load_from(self._clean, int(rng.integers(len(self._clean.names))), skipped)
        sample = {
            "lq": self._augment(rainy, rng),
            "gt": self._augment(clean, rng),
            "lq_path": rainy_path,
            "gt_path": clean_path,
        }
        return self._with_skipped(sample, skipped)
