"""Every way to start several processes, with real ones; there is no GPU in them."""

import multiprocessing
import os
import re
import socket
import subprocess
import sys

import pytest
import torch
from training_helpers import make_folders, tiny_options, write_options

from nlcl_plugin import cli
from nlcl_plugin.config import option_files
from nlcl_plugin.errors import InputError
from nlcl_plugin.training.distributed import check_launcher, join_process_group
from nlcl_plugin.training.launch import start

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TRAIN = ["train", "-opt", "options.yml", "--launcher"]


def short_options(**changes):
    options = tiny_options(**{"dist_params": {"backend": "gloo", "timeout": 120}, **changes})
    options["datasets"]["train"]["batch_size_per_gpu"] = 1
    del options["datasets"]["val"], options["val"]
    options["train"].update(total_iter=2, restorer_opt=None, optim_s=None)
    return options


@pytest.fixture
def folder(tmp_path):
    make_folders(tmp_path)
    write_options(tmp_path, short_options())
    return tmp_path


@pytest.fixture(scope="module")
def environment():
    """That of a shell in which no launcher has been."""
    unwanted = re.compile("RANK|WORLD_SIZE|LOCAL_RANK|MASTER_.*|SLURM_.*|TORCHELASTIC_.*|GROUP_.*|ROLE_.*")
    kept = {name: value for name, value in os.environ.items() if not unwanted.fullmatch(name)}
    return {**kept, "OMP_NUM_THREADS": "1"}


def begin(folder, command, environment, stdin=None, **variables):
    environment = {**environment, **{name: str(value) for name, value in variables.items()}}
    pipes = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(part) for part in command], cwd=folder, env=environment, **pipes)


def finish(*processes):
    """Exit codes and all that was said, of processes that need each other."""
    said = [process.communicate(timeout=180) for process in processes]
    return [process.returncode for process in processes], ["".join(lines) for lines in said]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


# Slurm ----------------------------------------------------------------------------------------------------------------
def write_scontrol(folder, script):
    tools = folder / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "scontrol").chmod(0o755)
    return f"{tools}:{os.environ['PATH']}"


def slurm(rank, **variables):
    return {"SLURM_PROCID": rank, "SLURM_NTASKS": 2, "SLURM_LOCALID": rank, **variables}


@pytest.mark.slow
def test_slurm_finds_the_first_host_of_its_step(folder, environment):
    path = write_scontrol(folder, 'echo "$@" >> asked\necho localhost\necho other')
    common = {"PATH": path, "MASTER_PORT": free_port(), "SLURM_STEP_NODELIST": "n[1-2];touch x", "SLURM_NODELIST": "n9"}
    command = [sys.executable, "-m", "nlcl_plugin", *TRAIN, "slurm"]
    processes = [begin(folder, command, environment, **slurm(rank, **common)) for rank in range(2)]
    codes, said = finish(*processes)
    assert set(codes) == {0}, "\n".join(said)
    assert (folder / "experiments/tiny/models/net_g_latest.pth").is_file()
    assert "world_size: 2" in "".join(said)
    assert not list((folder / "experiments").glob("*archived*"))  # a second first process would have begun anew
    assert "destroy_process_group" not in "".join(said)  # torch complains where it was not called
    assert (folder / "asked").read_text().splitlines() == ["show hostnames n[1-2];touch x"] * 2
    assert not (folder / "x").exists()


@pytest.fixture
def bare(monkeypatch, environment):
    """This process, as if no launcher had been; what joining sets for good is set back."""
    method = multiprocessing.get_start_method(allow_none=True)
    before = dict(os.environ)
    for name in set(before) - set(environment):
        del os.environ[name]
    yield monkeypatch
    monkeypatch.undo()
    os.environ.clear()
    os.environ.update(before)
    multiprocessing.set_start_method(method, force=True)


@pytest.mark.parametrize("script", [None, "echo no such node >&2; exit 1", "exit 0"])
def test_slurm_without_hosts_is_an_error_in_one_line(tmp_path, bare, script):
    variables = {"SLURM_NODELIST": "n1", "PATH": write_scontrol(tmp_path, script) if script else ""}
    for name, value in slurm(0, **variables).items():
        bare.setenv(name, str(value))
    message = "--launcher slurm: `scontrol show hostnames n1` names no host; start with srun, or set MASTER_ADDR"
    with pytest.raises(InputError, match=message):
        join_process_group("slurm", {"backend": "gloo"})


# faults ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("pytorch", "--launcher pytorch: .*RANK.* not set"),
        ("slurm", "--launcher slurm: 'SLURM_PROCID' is not set; start with srun"),
    ],
)
def test_a_launcher_that_did_not_start_this_is_refused(bare, launcher, message):
    with pytest.raises(InputError, match=message):
        join_process_group(launcher, {})


def test_an_unknown_backend_is_refused(bare):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}.items():
        bare.setenv(name, value)
    bare.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(InputError, match=r"nccll.*check dist_params"):
        join_process_group("pytorch", {"backend": "nccll"})


@pytest.mark.parametrize(("name", "launcher"), [("WORLD_SIZE", "pytorch"), ("SLURM_STEP_NUM_TASKS", "slurm")])
def test_several_processes_without_a_launcher_are_refused(bare, name, launcher):
    bare.setenv(name, "2")
    bare.setenv("SLURM_NTASKS", "8")  # a batch script without srun: this alone is fine
    message = rf"2 processes were started together \({name}=2\).*; add --launcher {launcher}, or unset {name}"
    for is_train in (True, False):
        with pytest.raises(InputError, match=message):
            start("nothing.yml", is_train=is_train)
    check_launcher(launcher)
    bare.setenv(name, "1")
    check_launcher("none")


@pytest.mark.parametrize(
    ("before", "behind", "variable", "expected"),
    [(["--local-rank=3"], [], None, "3"), ([], ["--local_rank=3"], None, "3"), ([], ["--local-rank", "3"], "1", "1")],
)
def test_local_rank_is_the_argument_unless_a_variable_says_otherwise(bare, before, behind, variable, expected):
    bare.setattr("nlcl_plugin.training.launch.check_launcher", lambda launcher: None)
    parameters = {"backend": "gloo", "port": 1234}
    bare.setattr("nlcl_plugin.training.launch._read", lambda *_, **__: {"dist_params": parameters})
    bare.setattr("basicsr.utils.dist_util.init_dist", lambda *_, **options: seen.append(options) or sys.exit())
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "LOCAL_RANK": variable}.items():
        if value:
            bare.setenv(name, value)
    seen = []
    with pytest.raises(SystemExit):
        cli.main([*before, *TRAIN, "pytorch", *behind])
    assert seen == [parameters]
    assert os.environ["LOCAL_RANK"] == expected


def test_absent_processes_are_an_error_in_one_line_that_names_the_rank(folder, environment):
    write_options(folder, short_options(dist_params={"backend": "gloo", "timeout": 1}))
    variables = {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    command = [sys.executable, "-m", "nlcl_plugin", *TRAIN, "pytorch"]
    codes, said = finish(begin(folder, command, environment, **variables))
    assert codes == [2]
    last = said[0].splitlines()[-1]
    assert last.startswith("[rank 1] error: --launcher pytorch: the processes don't find each other")
    assert "Traceback" not in said[0]


PART = """
import sys, time
from nlcl_plugin.training import distributed as process_group
process_group.join_process_group("pytorch", {"backend": "gloo", "timeout": 2})
rank = process_group.get_dist_info()[0]
agreement = process_group.Agreement(timeout=2)
print(f"{agreement.any(False)} {agreement.any(rank == 1)}\\n", end="", flush=True)
if rank == 0:
    try:
        agreement.any(False)
    except RuntimeError:
        print("waited no longer", flush=True)
    time.sleep(3)  # it writes a summary for longer than a collective may take
    print("written", flush=True)
sys.exit(process_group.leave_process_group(5 * rank))
"""


@pytest.mark.slow
def test_processes_agree_wait_no_longer_than_asked_to_except_for_the_last_one_and_exit_alike(folder, environment):
    (folder / "part.py").write_text(PART)
    common = {"WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    processes = [begin(folder, [sys.executable, "part.py"], environment, RANK=rank, **common) for rank in range(2)]
    codes, said = finish(*processes)
    assert codes == [5, 5], said
    assert [text.count("False True") for text in said] == [1, 1]
    assert "waited no longer\nwritten" in said[0]


RESTART_OF_TWO_NODES = """
import os, sys
from nlcl_plugin.training import distributed as process_group
process_group.join_process_group("pytorch", {"backend": "gloo", "timeout": 20})
if os.path.exists("died"):
    process_group.leave_process_group(0)
    print("parted", os.environ["TORCHELASTIC_RESTART_COUNT"], flush=True)
elif os.environ["RANK"] == "1":
    open("died", "w").close()
    os._exit(1)
else:
    sys.stdin.read()  # for ever: that its peer is gone is for its agent to find out
"""


@pytest.mark.slow
def test_nodes_meet_again_though_only_one_of_them_counts_the_restart(folder, environment):
    (folder / "restart.py").write_text(RESTART_OF_TWO_NODES)
    meeting = ["--nnodes=2", "--nproc_per_node=1", "--max-restarts=1", "--rdzv_id=nlcl", "--rdzv_backend=c10d"]
    command = [*TORCHRUN, *meeting, f"--rdzv_endpoint=localhost:{free_port()}", "restart.py"]
    reader, writer = os.pipe()  # nobody writes
    nodes = [begin(folder, command, environment, stdin=reader) for _ in range(2)]
    codes, said = finish(*nodes)
    os.close(reader)
    os.close(writer)
    assert codes == [0, 0], said
    assert sorted(re.findall(r"parted \d", "".join(said))) == ["parted 0", "parted 1"]


SEED = """
from nlcl_plugin.training.launch import start
from nlcl_plugin.training.distributed import leave_process_group
opt = start("options.yml", is_train=True, launcher="pytorch")
print(f"seed {opt['manual_seed']} {opt['datasets']['train']['manual_seed']}\\n", end="")
leave_process_group(0)
"""


@pytest.mark.slow
def test_processes_draw_one_seed_together_where_none_is_given(folder, environment):
    write_options(folder, short_options(manual_seed=None))
    (folder / "seed.py").write_text(SEED)
    process = begin(folder, [*TORCHRUN, "--standalone", "--nproc_per_node=2", "seed.py"], environment)
    codes, said = finish(process)
    assert codes == [0], said
    seeds = set(re.findall(r"seed (\d+) (\d+)", said[0]))
    assert len(seeds) == 1
    assert len(set(seeds.pop())) == 1


# options to remember and compare --------------------------------------------------------------------------------------
@pytest.mark.parametrize("deterministic", [False, True])
def test_kernels_are_chosen_before_the_first_computation(folder, bare, deterministic):
    def see(opt):
        seen.append((os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.are_deterministic_algorithms_enabled()))
        return {}

    seen = []
    bare.chdir(folder)
    bare.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    bare.setattr("nlcl_plugin.training.launch.rehearse", see)
    before = torch.backends.cudnn.benchmark
    try:
        start(str(write_options(folder, short_options(deterministic=deterministic))), is_train=True)
        assert torch.backends.cudnn.benchmark is not deterministic
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = before
    assert seen == [(":4096:8" if deterministic else None, deterministic)]


@pytest.mark.parametrize(("num_gpu", "is_train"), [(0, True), (1, True), (0, False)])
def test_freed_memory_is_kept_in_training_on_a_cpu(folder, monkeypatch, num_gpu, is_train):
    kept = []
    monkeypatch.chdir(folder)
    for name, stand_in in {
        "check_data": lambda _: None,  # which would refuse a GPU that isn't there
        "rehearse": lambda _: None,
        "keep_freed_memory": lambda: kept.append(True),
    }.items():
        monkeypatch.setattr(f"nlcl_plugin.training.launch.{name}", stand_in)
    options = short_options(num_gpu=num_gpu)
    if not is_train:
        options["datasets"] = {"test": tiny_options()["datasets"]["val"]}
    start(str(write_options(folder, options)), is_train=is_train)
    assert len(kept) == (num_gpu == 0 and is_train)


def test_written_options_start_the_same_run_again(folder, monkeypatch):
    monkeypatch.chdir(folder)
    remembered = option_files.plain_options(start("options.yml", is_train=True))
    assert not {"rank", "dist", "world_size", "root_path", "is_train"} & set(remembered)
    option_files.write_options("complete.yml", remembered, comment="train -opt options.yml")
    assert option_files.load_yaml("complete.yml") == remembered
    assert option_files.plain_options(start("complete.yml", is_train=True)) == remembered
