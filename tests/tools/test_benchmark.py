"""The benchmark as a command, on the smallest cases, and the slow reference it compares with."""

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def reference(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "tools"))
    from benchmarks import reference

    return reference


@pytest.fixture
def measured(repository, tmp_path):
    def run(*arguments):
        command = [sys.executable, repository / "tools" / "benchmark.py", *arguments]
        command += ["--json", "rows.json", "--plot", "plot.png"]
        environment = {**os.environ, "PYTHONPATH": str(repository)}
        job = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert job.returncode == 0, job.stderr
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
        rows = json.loads((tmp_path / "rows.json").read_text())
        for row in rows:
            assert {"part", "case", "ratio", "peak_mb", "reference_peak_mb", "floor_ratio"} <= row.keys()
            assert row["part"] == arguments[0]
            assert 0 < row["low"] <= row["ratio"] <= row["high"]
            assert f"| {row['case']} |" in job.stdout
        return {row["case"]: row for row in rows}

    return run


@pytest.mark.slow
def test_search_is_faster_than_the_loop_in_every_case(measured):
    rows = measured("search", "--small", "--channels", "3", "--rounds", "1")
    assert rows.keys() == {"3 channels, 1 query, batch 1", "3 channels, 8 queries, batch 1"}
    for row in rows.values():
        assert row["ratio"] > 1
        assert row["floor_ratio"] > 1
        assert 0 <= row["peak_mb"] < 64


@pytest.mark.slow
def test_start_up_is_compared_with_basicsr(measured):
    row = measured("startup", "--rounds", "1")["import"]
    assert row["peak_mb"] > 50
    assert row["reference_peak_mb"] > 50


@pytest.mark.slow
def test_steps_are_compared_with_the_released_way_in_batches_and_by_switches(measured):
    arguments = ("--small", "--crop", "64", "--batch-crop", "32", "--rounds", "1", "--device", "cpu")
    rows = measured("step", *arguments)
    step = rows["paper-64-b1-cpu-small"]
    assert step["ratio"] > 1
    assert step["floor_ratio"] > 1
    assert 0 < step["search_share"] < 1
    assert step["peak_mb"] > 100
    assert step["reference_peak_mb"] > 100
    assert "batch 8 against 1, crop 32, cpu" in rows
    assert "bf16 against fp32, crop 64, batch 1, cpu" in rows


def test_the_step_agrees_with_the_reference_or_fails(reference, monkeypatch):
    from benchmarks import step

    assert step.agree("cpu", 64, small=True)
    monkeypatch.setattr(step, "masked_supcon", lambda b, r: reference.masked_supcon(b, r, temperature=0.08))
    with pytest.raises(RuntimeError, match="layer contrast: ours is"):
        step.agree("cpu", 64, small=True)
    monkeypatch.undo()
    monkeypatch.setattr(step, "loop_search", lambda *args: (torch.zeros(8, 2), torch.zeros(8)))
    with pytest.raises(RuntimeError, match="distances of neighbours: ours is"):
        step.agree("cpu", 64, small=True)


def test_the_loop_knows_borders_and_the_nearest_patch_is_the_query(reference):
    image = torch.rand(1, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    places, distances = reference.loop_search(image, [8, 32], 6, search=6)
    assert places[0].tolist() == [8, 32]
    assert distances[0] == 0
    # From the corner the patch can move by two to one side only.
    assert places.min(0).values[0] >= 8
    assert places.max(0).values[1] <= 32
    for place, distance in zip(places.tolist(), distances, strict=True):
        there = image[..., place[0] - 8 : place[0] + 8, place[1] - 8 : place[1] + 8]
        torch.testing.assert_close(distance, (there - image[..., 0:16, 24:40]).square().sum())


def test_masked_supcon_is_the_mean_over_anchors_and_positives(reference):
    generator = torch.Generator().manual_seed(0)
    image, rain = (F.normalize(torch.randn(n, 5, generator=generator), dim=1) for n in (3, 4))
    everything = torch.cat((image, rain))
    layers = [0] * 3 + [1] * 4
    losses = []
    for i in range(7):
        terms = {j: (everything[i] @ everything[j] / 0.07).exp() for j in range(7) if j != i}
        positives = [j for j in terms if layers[j] == layers[i]]
        losses.append(-sum((terms[j] / sum(terms.values())).log() for j in positives) / len(positives))
    torch.testing.assert_close(reference.masked_supcon(image, rain), sum(losses) / 7, rtol=1e-4, atol=1e-5)


def test_a_wrong_part_is_refused_without_a_traceback(repository):
    command = [sys.executable, repository / "tools" / "benchmark.py", "nothing"]
    job = subprocess.run(command, capture_output=True, text=True, check=False)
    assert job.returncode == 2
    assert "Traceback" not in job.stderr
