"""Paths and small real inputs that several tests share."""

import os
import signal
import warnings
from pathlib import Path

import pytest
import torch
from training_helpers import make_folders, photograph  # noqa: F401  photograph is for the tests

import nlcl_plugin  # noqa: F401  before any test imports BasicSR, which it mends

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def pytest_configure(config):
    """One thread in each of several processes: with more threads than cores they would wait for each other."""
    if hasattr(config, "workerinput"):  # of pytest-xdist
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start, too
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture
def shared_data():
    """Real photographs, Rain100H images and released weights, which the project may not ship."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the data folder {SHARED_DATA}, which is not part of the project")
    return SHARED_DATA


@pytest.fixture(scope="session")
def repository():
    return REPOSITORY


@pytest.fixture
def interruptible():
    """Signals as at a terminal: a shell in the background ignores SIGINT, and a command leaves its handlers behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with images to train on."""
    make_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets it
    return tmp_path
