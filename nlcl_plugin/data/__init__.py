"""Datasets, their sampling, and image files. The LMDB store is imported from its module, as it needs lmdb."""

from nlcl_plugin.data.image_io import IMAGE_SUFFIXES, list_images, read_image, write_image
from nlcl_plugin.data.pseudo_pair_dataset import PseudoPairDataset
from nlcl_plugin.data.sampler import SampleIndex
from nlcl_plugin.data.unpaired_image_dataset import UnpairedImageDataset

__all__ = [
    "IMAGE_SUFFIXES",
    "PseudoPairDataset",
    "SampleIndex",
    "UnpairedImageDataset",
    "list_images",
    "read_image",
    "write_image",
]
