"""The benchmark as a command, on the smallest cases, and the slow reference it compares with."""

import pytest


@pytest.fixture
def reference(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "tools"))
    from benchmarks import reference

    return reference


def test_the_step_agrees_with_the_reference_or_fails(reference, monkeypatch):
    from benchmarks import step

    assert step.agree("cpu", 64, small=True)
    monkeypatch.setattr(step, "masked_supcon", lambda b, r: reference.masked_supcon(b, r, temperature=0.08))
    with pytest.raises(RuntimeError, match="layer contrast: ours is"):
        step.agree("cpu", 64, small=True)
