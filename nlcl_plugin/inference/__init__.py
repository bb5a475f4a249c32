"""Trained networks at work: images of any size, files, rain banks, export."""
