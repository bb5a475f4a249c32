"""Aligned training pairs made of clean photographs and a bank of rain layers (ours), as a dataset for BasicSR."""

from __future__ import annotations

import os
from bisect import bisect_right
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from nlcl_plugin.data.image_dataset import ImageDataset, random_crop
from nlcl_plugin.data.image_io import to_tensor
from nlcl_plugin.data.image_sources import ImageSource, open_source
from nlcl_plugin.data.sampler import sample_generator
from nlcl_plugin.errors import InputError
from nlcl_plugin.rain.batch_random import BatchRandom
from nlcl_plugin.rain.finish import finish_pairs
from nlcl_plugin.rain.pseudo_pairs import RENDERERS, make_pseudo_rainy
from nlcl_plugin.rain.structure import add_structure
from nlcl_plugin.rain.variation import RainVariation

RENDERED = "rendered"  # in the place of a layer's path


class PseudoPairDataset(ImageDataset):
    """Clean images, and the same with rain of a bank on them: pairs for any model that learns from pairs.

    A bank is what `basicsr bank` makes of rainy photographs. Each sample draws new rain, varies it
    as stage 2 of `NLCLModel` does, and lays it on a crop of the clean image. All that depends on (seed, epoch, draw)
    alone, if the sampler gives a `SampleIndex`; a plain int counts as that draw of epoch 0.

    Args:
        opt: The options; see `ImageDataset` for those not listed here:

            - phase (str): `train`.
            - dataroot_gt (str): The clean images: a folder that is searched to its depth, or an LMDB.
            - dataroot_rain (str, or a list of them): The banks: LMDBs, by their names, or folders of images that show
              rain on black. Every layer of them all is drawn equally often. Not needed where `rendered` is 1.
            - rendered (float): The fraction of samples whose rain is rendered instead. Default: 0.
            - All other keys of `RainVariation`, as in `train.restorer_opt`: how the rain is rendered, varied and laid
              on, what is drawn into the clean image before, and what is done to the pair after. Of several `layers`,
              all are of the bank or all rendered.

    Raises:
        InputError: If an option is missing or wrong.

    Attributes:
        variation: How the rain is varied.
    """

    OPTION_KEYS = (*ImageDataset.OPTION_KEYS, "dataroot_rain", *RainVariation.model_fields)
    PHASES = ("train",)

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.variation = self._read_variation()
        self._clean = self._open("dataroot_gt")
        self._banks = self._open_banks()
        self._ends = list(accumulate(len(bank.names) for bank in self._banks))
        self.paths = [os.path.join(self._clean.root, name) for name in self._clean.names]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make a sample.

        Returns:
            `lq`, the pseudo-rainy image, and `gt`, the clean one: (3, gt_size, gt_size) RGB float32 tensors in [0, 1];
            `lq_path`, the path of the (first) rain layer, or `rendered`; `gt_path`.

        Raises:
            InputError: If an image cannot be read.
        """
        self._check_index(index)
        rng = sample_generator(self._seed, index)
        skipped: list[str] = []
        image, path = self._load_from(self._clean, int(index), skipped)
        clean = self._augment(image, rng)
        rendered = rng.random() < self.variation.rendered
        random = BatchRandom(int(rng.integers(2**63)), 0, rows=[0], total=1)
        clean = add_structure(clean[None], self.variation, random)
        rain = [self._render(rng) if rendered else self._draw_layer(rng, skipped) for _ in range(self.variation.layers)]
        layers = [layer[None] for layer, _ in rain]
        rainy = make_pseudo_rainy(clean, layers[0], self.variation, random, others=layers[1:])
        finished, rainy = finish_pairs(clean, rainy, self.variation, random)
        sample = {"lq": rainy[0], "gt": finished[0], "lq_path": rain[0][1], "gt_path": path}
        return self._with_skipped(sample, skipped)

    def _render(self, rng: np.random.Generator) -> tuple[Tensor, str]:
        layer = RENDERERS[self.variation.renderer]((self._crop_size, self._crop_size), rng)
        return torch.from_numpy(layer[None]), RENDERED

    def _draw_layer(self, rng: np.random.Generator, skipped: list[str]) -> tuple[Tensor, str]:
        """A crop of a layer (1 or 3, gt_size, gt_size); its flips are those of the variation."""
        place = int(rng.integers(self._ends[-1]))
        bank = bisect_right(self._ends, place)
        start = self._ends[bank - 1] if bank else 0
        layer, path = self._load_from(self._banks[bank], place - start, skipped, keep_grey=True)
        layer = layer[..., None] if layer.ndim == 2 else layer
        return to_tensor(random_crop(layer, self._crop_size, rng, hflip=False, vflip=False, rot=False)), path

    def _read_variation(self) -> RainVariation:
        # A key without a value (`gain: ~`) means its default.
        given = {key: self.opt[key] for key in RainVariation.model_fields if self.opt.get(key) is not None}
        try:
            return RainVariation(**given)
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{first['loc'][0]}: got {first['input']!r}: " if first["loc"] else ""  # else the message has both
            raise InputError(f"{where}{first['msg'].removeprefix('Value error, ')}; correct it") from error

    def _open_banks(self) -> list[ImageSource]:
        roots = self.opt.get("dataroot_rain") or []
        roots = roots if isinstance(roots, list | tuple) else [roots]
        if not roots and self.variation.rendered < 1:
            wanted = "a bank of rain layers; make one with basicsr bank, or set rendered: 1"
            raise self._wrong("dataroot_rain", wanted)
        return [open_source(root) for root in roots]
