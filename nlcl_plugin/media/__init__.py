"""Photographs and videos in and out, with all that they carry."""
