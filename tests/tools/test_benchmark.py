"""The benchmark on the smallest case, and the slow reference it compares with."""

import pytest
from benchmarks import reference, step


def test_the_step_agrees_with_the_reference_or_fails(monkeypatch):
    assert step.agree("cpu", 64, small=True)
    monkeypatch.setattr(step, "masked_supcon", lambda b, r: reference.masked_supcon(b, r, temperature=0.08))
    with pytest.raises(RuntimeError, match="layer contrast: ours is"):
        step.agree("cpu", 64, small=True)
