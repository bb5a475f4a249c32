"""Processes that were started together."""

import pytest

from nlcl_plugin.engine.launch import start
from nlcl_plugin.engine.process_group import check_launcher
from nlcl_plugin.errors import InputError


@pytest.mark.parametrize(("name", "launcher"), [("WORLD_SIZE", "pytorch"), ("SLURM_STEP_NUM_TASKS", "slurm")])
def test_several_processes_without_a_launcher_are_refused(monkeypatch, name, launcher):
    monkeypatch.setenv(name, "2")
    message = rf"2 processes were started together \({name}=2\).*; add --launcher {launcher}, or unset {name}"
    for is_train in (True, False):
        with pytest.raises(InputError, match=message):
            start("nothing.yml", is_train=is_train)
    check_launcher(launcher)
    monkeypatch.setenv(name, "1")
    check_launcher("none")


def test_one_process_in_a_job_of_several_tasks_is_fine(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")  # a batch script without srun
    check_launcher("none")
