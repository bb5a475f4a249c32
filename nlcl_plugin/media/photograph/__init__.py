"""Photographs as they come from cameras and programs, read and written with all their metadata."""

from nlcl_plugin.media.photograph.reading import MAX_PIXELS, Photograph, read_photograph
from nlcl_plugin.media.photograph.writing import write_photograph

__all__ = ["MAX_PIXELS", "Photograph", "read_photograph", "write_photograph"]
