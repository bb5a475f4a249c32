"""Every way to start several processes, with real ones; there is no GPU in them."""

import multiprocessing
import os
import re
import socket
import subprocess
import sys

import pytest
from conftest import photograph
from training_helpers import make_folders, tiny_options, write_options

from nlcl_plugin.errors import InputError
from nlcl_plugin.training.distributed import join_process_group

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
    make_folders(tmp_path, photograph)
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


def assert_trained_by_two(folder, codes, said):
    assert set(codes) == {0}, "\n".join(said)
    assert (folder / "experiments/tiny/models/net_g_latest.pth").is_file()
    assert "world_size: 2" in "".join(said)
    assert not list((folder / "experiments").glob("*archived*"))  # a second first process would have begun anew
    assert "destroy_process_group" not in "".join(said)  # torch complains where it was not called


# torchrun -------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_old_launch_module_which_puts_the_local_rank_first(folder, environment):
    launch = [sys.executable, "-m", "torch.distributed.launch", "--nproc_per_node=2", f"--master_port={free_port()}"]
    process = begin(folder, [*launch, "-m", "nlcl_plugin", *TRAIN, "pytorch"], environment)
    assert_trained_by_two(folder, *finish(process))


@pytest.mark.slow
def test_two_nodes_that_meet_at_an_endpoint(folder, environment):
    meeting = ["--nnodes=2", "--nproc_per_node=1", "--rdzv_id=nlcl", "--rdzv_backend=c10d"]
    command = [*TORCHRUN, *meeting, f"--rdzv_endpoint=localhost:{free_port()}", "-m", "nlcl_plugin", *TRAIN, "pytorch"]
    nodes = [begin(folder, command, environment) for _ in range(2)]
    assert_trained_by_two(folder, *finish(*nodes))


LOCAL_RANK = """
import os, sys
from nlcl_plugin import cli
from nlcl_plugin.training import launch
from nlcl_plugin.training import distributed as process_group
def start(opt, *, local_rank, **_):
    process_group.join_process_group("pytorch", {"backend": "gloo", "port": int(opt)}, local_rank=local_rank)
    print(os.environ["LOCAL_RANK"], os.environ["MASTER_PORT"])
    sys.exit()
launch.start = start
cli.main()
"""


@pytest.mark.parametrize(
    ("before", "behind", "variables", "local_rank"),
    [
        (["--local-rank=3"], [], {}, "3"),
        ([], ["--local_rank=3"], {}, "3"),
        ([], ["--local-rank", "3"], {"LOCAL_RANK": 1}, "1"),
    ],
)
def test_local_rank_is_the_argument_but_for_a_variable(folder, environment, before, behind, variables, local_rank):
    port = free_port()
    variables = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", **variables}
    command = [sys.executable, "-c", LOCAL_RANK, *before, "train", "-opt", port, "--launcher", "pytorch", *behind]
    codes, said = finish(begin(folder, command, environment, **variables))
    assert codes == [0], said
    assert said[0].splitlines()[0] == f"{local_rank} {port}"


# Slurm ----------------------------------------------------------------------------------------------------------------
def write_scontrol(folder, script):
    tools = folder / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "scontrol").chmod(0o755)
    return f"{tools}:{os.environ['PATH']}"


def slurm(rank, **variables):
    return {"SLURM_PROCID": rank, "SLURM_NTASKS": 2, "SLURM_LOCALID": rank, **variables}


def test_slurm_finds_the_first_host_of_its_step(folder, environment):
    path = write_scontrol(folder, 'echo "$@" >> asked\necho localhost\necho other')
    common = {"PATH": path, "MASTER_PORT": free_port(), "SLURM_STEP_NODELIST": "n[1-2];touch x", "SLURM_NODELIST": "n9"}
    command = [sys.executable, "-m", "nlcl_plugin", *TRAIN, "slurm"]
    processes = [begin(folder, command, environment, **slurm(rank, **common)) for rank in range(2)]
    assert_trained_by_two(folder, *finish(*processes))
    assert (folder / "asked").read_text().splitlines() == ["show hostnames n[1-2];touch x"] * 2
    assert not (folder / "x").exists()


@pytest.mark.slow
def test_slurm_respects_address_and_port_that_are_set(folder, environment):
    path = write_scontrol(folder, "exit 1")
    common = {"PATH": path, "MASTER_ADDR": "localhost", "SLURM_NODELIST": "n1"}
    write_options(folder, short_options(dist_params={"backend": "nccl", "port": free_port()}))
    command = [sys.executable, "-m", "nlcl_plugin", *TRAIN, "slurm"]
    processes = [begin(folder, command, environment, **slurm(rank, **common)) for rank in range(2)]
    codes, said = finish(*processes)
    assert_trained_by_two(folder, codes, said)
    assert "warning: dist_params.backend: nccl needs GPUs, and this run has none; gloo is used" in said[0]
    assert "gloo is used" not in said[1]


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


@pytest.mark.parametrize(
    ("script", "variables", "message"),
    [
        (
            "echo no such node >&2; exit 1",
            {"SLURM_NODELIST": "n1"},
            r"`scontrol show hostnames n1` fails \(no such node",
        ),
        ("exit 0", {"SLURM_NODELIST": "n1"}, r"`scontrol show hostnames n1` fails \(it shows none\); set MASTER_ADDR"),
        (None, {"SLURM_NODELIST": "n1", "PATH": ""}, r"`scontrol show hostnames n1` fails \(\[Errno 2\]"),
        (None, {}, "none of SLURM_STEP_NODELIST, SLURM_JOB_NODELIST, SLURM_NODELIST is set; start with srun"),
    ],
)
def test_slurm_without_hosts_is_told_in_one_line(tmp_path, bare, script, variables, message):
    path = {"PATH": write_scontrol(tmp_path, script)} if script else {}
    for name, value in slurm(0, **path, **variables).items():
        bare.setenv(name, str(value))
    with pytest.raises(InputError, match=f"--launcher slurm: {message}") as raised:
        join_process_group("slurm", {"backend": "gloo"})
    assert "\n" not in str(raised.value)


# faults ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("pytorch", "--launcher pytorch: not set: RANK, WORLD_SIZE, MASTER_ADDR; start with `torchrun"),
        ("slurm", "--launcher slurm: not set: SLURM_PROCID, SLURM_NTASKS; start with `srun"),
    ],
)
def test_a_launcher_that_did_not_start_this_is_told(bare, launcher, message):
    with pytest.raises(InputError, match=message):
        join_process_group(launcher, {})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backend": "nccll"}, "dist_params.backend: expected one of gloo, nccl.*, but received 'nccll'"),
        ({"backend": 1}, "dist_params.backend: expected one of"),
        ({"port": "x"}, "dist_params.port: expected a number from 1 to 65535, but received 'x'"),
        ({"port": 70000}, "dist_params.port: expected a number"),
        ({"timeout": 0}, "dist_params.timeout: expected seconds, a number above 0, but received 0"),
        ({"timeout": True}, "dist_params.timeout: expected seconds"),
        ({"prot": 29500}, "dist_params.prot: unknown option; expected backend, port or timeout"),
    ],
)
def test_wrong_parameters_are_told(bare, parameters, message):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}.items():
        bare.setenv(name, value)
    with pytest.raises(InputError, match=message):
        join_process_group("pytorch", parameters)


def test_absent_processes_are_told_in_one_line_that_names_the_rank(folder, environment):
    write_options(folder, short_options(dist_params={"backend": "gloo", "timeout": 1}))
    variables = {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    command = [sys.executable, "-m", "nlcl_plugin", *TRAIN, "pytorch"]
    codes, said = finish(begin(folder, command, environment, **variables))
    assert codes == [2]
    assert (
        said[0].splitlines()[-1].startswith("[rank 1] error: --launcher pytorch: the processes don't find each other")
    )
    assert "Traceback" not in said[0]


def test_one_failing_process_ends_all_and_torchrun_shows_its_error(folder, environment):
    # The second process finds its images gone when training begins.
    (folder / "fail.py").write_text(
        "import os, sys\n"
        "import nlcl_plugin.training.train as module\n"
        "from nlcl_plugin.cli import main\n"
        "from nlcl_plugin.errors import InputError\n"
        "def train(opt, option_file):\n"
        "    if opt['rank'] == 1:\n"
        "        raise InputError('rainy/x.png: cannot be read')\n"
        "    import torch\n"
        "    torch.distributed.barrier()\n"
        "module.train = train\n"
        "sys.exit(main())\n"
    )
    command = [*TORCHRUN, "--standalone", "--nproc_per_node=2", "fail.py", *TRAIN, "pytorch"]
    codes, said = finish(begin(folder, command, environment))
    assert codes == [1]
    assert "[rank 1] error: rainy/x.png: cannot be read" in said[0].splitlines()
    summary = said[0][said[0].index("Root Cause") :]
    assert "rank      : 1" in summary
    assert "exitcode  : 2" in summary
    assert "InputError: rainy/x.png: cannot be read" in summary


PART = """
import sys, time
from nlcl_plugin.training import distributed as process_group
process_group.join_process_group("pytorch", {"backend": "gloo", "timeout": 2})
rank = process_group.get_dist_info()[0]
if rank == 0:
    time.sleep(5)  # it writes a summary for longer than a collective may take
    print("written", flush=True)
sys.exit(process_group.leave_process_group(5 * rank))
"""


@pytest.mark.slow
def test_processes_wait_for_the_last_one_and_exit_alike(folder, environment):
    (folder / "part.py").write_text(PART)
    common = {"WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    processes = [begin(folder, [sys.executable, "part.py"], environment, RANK=rank, **common) for rank in range(2)]
    codes, said = finish(*processes)
    assert codes == [5, 5], said
    assert "written" in said[0]


RESTART = """
import os, sys, time
from nlcl_plugin.training import distributed as process_group
process_group.join_process_group("pytorch", {"backend": "gloo"})
rank, attempt = process_group.get_dist_info()[0], os.environ["TORCHELASTIC_RESTART_COUNT"]
if rank == 1:
    time.sleep(3)  # the other one is waiting by now
    if attempt == "0":
        sys.exit(1)
    print("last", flush=True)
process_group.leave_process_group(0)
print("parted", flush=True)
"""


@pytest.mark.slow
def test_after_an_elastic_restart_nobody_counts_the_processes_of_before(folder, environment):
    (folder / "restart.py").write_text(RESTART)
    command = [*TORCHRUN, "--standalone", "--nproc_per_node=2", "--max-restarts=1", "restart.py"]
    process = begin(folder, command, environment)
    said, warned = process.communicate(timeout=180)
    assert process.returncode == 0, warned
    assert re.findall("last|parted", said) == ["last", "parted", "parted"]  # the two may write into one line


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


def test_processes_draw_one_seed_together_where_none_is_given(folder, environment):
    write_options(folder, short_options(manual_seed=None))
    (folder / "seed.py").write_text(SEED)
    process = begin(folder, [*TORCHRUN, "--standalone", "--nproc_per_node=2", "seed.py"], environment)
    codes, said = finish(process)
    assert codes == [0], said
    seeds = set(re.findall(r"seed (\d+) (\d+)", said[0]))
    assert len(seeds) == 1
    assert len(set(seeds.pop())) == 1


# deterministic --------------------------------------------------------------------------------------------------------
KERNELS = """
import os, torch
from nlcl_plugin.training import launch
seen = []
rehearse = launch.rehearse
def rehearse_and_see(opt):
    seen.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
    rehearse(opt)
launch.rehearse = rehearse_and_see
launch.start("options.yml", is_train=True)
print(torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, *seen)
"""


@pytest.mark.parametrize(
    ("options", "kernels"), [({}, "False True None"), ({"deterministic": True}, "True False :4096:8")]
)
def test_deterministic_kernels_are_chosen_before_the_first_computation_and_suffice(
    folder, environment, options, kernels
):
    write_options(folder, short_options(**options))
    codes, said = finish(begin(folder, [sys.executable, "-c", KERNELS], environment))
    assert codes == [0], said
    assert said[0].strip() == kernels
