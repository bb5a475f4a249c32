"""The check for GPUs at tiny sizes on the CPU: its parts, its reports, and what becomes of faults."""

import json
import sys
import time

import gpu_check
import pytest
import torch
from gpu import device, equal, resume, runner, search
from gpu.rows import FAIL, MEASURED, NOT_RUN, PASS, Setting

DONE = {  # of each part, what has to be among the results
    "environment": {MEASURED, NOT_RUN},
    "equal": {PASS},
    "search": {PASS, MEASURED},
    "options": {PASS, NOT_RUN},
    "resume": {PASS},
    "step": {MEASURED, NOT_RUN},
    "infer": {PASS, MEASURED},
    "loader": {MEASURED},
    "multi": {PASS, MEASURED, NOT_RUN},
}


@pytest.fixture(autouse=True)
def unchanged():
    """The kernels that a training chooses for its process."""
    before = torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.benchmark = before


def run(folder, *arguments):
    code = gpu_check.main(["--device", "cpu", "--output", str(folder), *arguments])
    found = json.loads((folder / "gpu_check.json").read_text())
    return code, found, (folder / "gpu_check.md").read_text()


def setting(folder, seconds=60):
    return Setting("cpu", False, folder, time.time() + seconds)


def test_all_parts_pass_on_the_cpu_and_are_reported(tmp_path):
    code, found, text = run(tmp_path)
    failed = [row for row in found["rows"] if row["result"] == FAIL]
    assert (code, failed) == (0, [])
    for part, wanted in DONE.items():
        rows = [row for row in found["rows"] if row["part"] == part]
        assert {row["result"] for row in rows} == wanted, part
        assert f"## {part}\n" in text
        assert "time" not in {row["found"] for row in rows}  # all fitted
        assert all(row["case"] and row["found"] for row in rows)
    assert found["about"]["pass"] == sum(row["result"] == PASS for row in found["rows"]) >= 12
    assert {row["case"] for row in found["rows"]} >= {"nlcl.yml: gradients", "nlcl.yml: fp16 against fp32"}


def test_a_wrong_result_is_a_failed_row_and_an_error_ends_its_part_alone(tmp_path, monkeypatch):
    nearest = search.nonlocal_neighbours
    calls = []

    def wrong_at_first(*args, **sizes):
        centres, distances = nearest(*args, **sizes)
        calls.append(1)
        return centres + (len(calls) == 1), distances

    def broken():
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(search, "nonlocal_neighbours", wrong_at_first)
    monkeypatch.setattr(device, "exact", broken)
    code, found, text = run(tmp_path, "--part", "search", "--part", "equal")
    assert code == 1
    failed = [row for row in found["rows"] if row["result"] == FAIL]
    assert [row["part"] for row in failed] == ["equal", "search"]
    assert failed[0]["found"].startswith("RuntimeError: no such kernel (")
    assert failed[1]["found"].startswith("differs to the CPU's")
    assert sum(row["part"] == "search" for row in found["rows"]) == 6
    assert "## Failed\n\n- equal, the part itself: RuntimeError: no such kernel" in text


def test_losses_and_gradients_that_differ_fail():
    wanted = {"losses": {"a": 2.0, "b": 0.5}, "gradients": {"net_g": torch.ones(8, dtype=torch.float64)}}
    found = {"losses": {"a": 2.0, "b": 0.51}, "gradients": {"net_g": torch.full((8,), 1.05, dtype=torch.float64)}}
    rows = list(equal._compared("case", found, wanted))
    assert [row["result"] for row in rows] == [FAIL, FAIL]
    assert "b is off by 1.0e-02" in rows[0]["found"]
    assert [row["result"] for row in equal._compared("case", wanted, wanted)] == [PASS, PASS]
    off = {"losses": {"a": 2.0, "b": float("nan")}, "gradients": wanted["gradients"]}
    assert next(equal._compared("case", off, wanted))["result"] == FAIL


def test_a_part_that_hangs_is_killed_and_its_rows_stay(tmp_path, monkeypatch):
    script = tmp_path / "hanging.py"
    script.write_text(
        "import json, sys, time\n"
        "with open(json.loads(sys.argv[2])['rows'], 'w') as file:\n"
        '    file.write(\'{"part": "step", "case": "a", "result": "pass", "found": "1"}\\n{"cut\')\n'
        "print('waiting', file=sys.stderr, flush=True)\n"
        "time.sleep(100)\n"
    )
    monkeypatch.setattr(runner, "TOOL", script)
    rows = list(runner.rows_apart("step", setting(tmp_path, seconds=0), grace=2))
    assert [row["result"] for row in rows] == [PASS, FAIL]
    assert rows[1]["found"].startswith("it did not end, and was killed 2 s after its time; last: waiting")


def test_a_process_of_a_part_writes_its_rows(tmp_path):
    given = {"device": "cpu", "quick": False, "folder": str(tmp_path), "deadline": time.time() + 60}
    file = tmp_path / "rows.jsonl"
    assert gpu_check.main(["--child", json.dumps({**given, "part": "environment", "rows": str(file)})]) == 0
    assert runner.rows_of_file(file)[0]["case"] == "system"


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("error: --device cuda: torch finds no GPU")


def test_a_part_that_cannot_be_imported_is_a_failed_row(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gpu.step", None)
    [found] = runner.rows_here("step", setting(tmp_path))
    assert found["result"] == FAIL
    assert found["found"].startswith("ModuleNotFoundError")


def test_a_training_that_begins_anew_is_not_resumed(tmp_path, monkeypatch):
    def anew(*args, auto_resume=False, **options):
        return resume_train(*args, **options)

    resume_train = resume.train
    monkeypatch.setattr(resume, "train", anew)
    [found] = resume.measure(setting(tmp_path))
    assert found["result"] == FAIL
    assert "begun anew" in found["found"]


def test_what_no_longer_fits_is_reported(tmp_path):
    [(part, rows)] = runner.run({"step": 60}, "cpu", quick=False, folder=tmp_path, deadline=time.time(), apart=False)
    assert (part, rows[0]["case"], rows[0]["result"], rows[0]["found"]) == ("step", "all", NOT_RUN, "time")
    cases = list(runner.rows_here("search", setting(tmp_path, seconds=0)))
    assert [row["found"] for row in cases] == ["time"] * 3
