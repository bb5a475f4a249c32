"""Paths and small real inputs that several tests share."""

import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
from training_helpers import make_folders

import nlcl_plugin  # noqa: F401  before any test imports BasicSR, which it mends

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


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
    make_folders(tmp_path, photograph)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets it
    return tmp_path


def photograph(height, width, seed=0):
    """A smooth colourful image with edges and texture, uint8 RGB."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    phase = rng.uniform(0, 6, (3, 1, 1))
    waves = 0.5 + 0.25 * np.sin(9 * rows + phase) + 0.15 * np.sin(23 * columns * (1 + rows) + 2 * phase)
    waves[:, height // 3 : height // 2, width // 4 : width // 2] *= 0.5
    noisy = waves + rng.normal(0, 0.02, waves.shape)
    return (noisy.clip(0, 1).transpose(1, 2, 0) * 255).round().astype(np.uint8)
