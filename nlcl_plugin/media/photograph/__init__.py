"""Photographs as they come from cameras and programs, read and written with all their metadata."""

from nlcl_plugin.media.photograph.model import MAX_PIXELS, Photograph
from nlcl_plugin.media.photograph.reading import read_photograph
from nlcl_plugin.media.photograph.writing import encode_photograph, write_photograph

__all__ = ["MAX_PIXELS", "Photograph", "encode_photograph", "read_photograph", "write_photograph"]
