"""Faults of single files."""

import itertools

import cv2
import pytest
from conftest import photograph

from nlcl_plugin.engine import loading
from nlcl_plugin.errors import InputError


class Dataset:
    def __init__(self, paths):
        self.paths = paths


def test_the_unreadable_file_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / "good.png"), photograph(8, 8))
    (tmp_path / "bad.png").write_bytes(b"no image")
    dataset = Dataset([str(tmp_path / "good.png"), {"lq_path": str(tmp_path / "bad.png")}])
    with pytest.raises(InputError, match="not a readable image"), loading.explained(dataset):
        raise AttributeError


def test_a_fault_of_no_file_is_told_soon_however_many_files_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "LIMIT", 0.2)
    cv2.imwrite(str(tmp_path / "good.png"), photograph(8, 8))
    endless = Dataset(itertools.repeat(str(tmp_path / "good.png")))
    with pytest.raises(RuntimeError, match="out of memory"), loading.explained(endless):
        raise RuntimeError("out of memory")
