"""Training in two processes on the CPU: the same code as on many GPUs, over gloo."""

import os
import random
import signal
import subprocess
import time

import pytest
import torch
from training_helpers import TORCHRUN, make_folders, run, tiny_options, torchrun, write_options

from nlcl_plugin.training.json_log import read_json_lines

TEST = ["test", "-opt", "test.yml", "--launcher", "pytorch"]
TRAIN = ["-m", "nlcl_plugin", "train", "-opt", "options.yml", "--launcher", "pytorch"]


def options(**train):
    opt = tiny_options(dist_params={"backend": "gloo"})
    # Two stages, an odd number of draws, checkpoints inside of epochs, validations of three images.
    opt["datasets"]["train"].update(batch_size_per_gpu=1, dataset_enlarge_ratio=3)
    opt["train"].update(total_iter=14, restorer_opt={"start_iter": 8}, **train)
    opt["val"]["val_freq"] = 3
    opt["logger"].update(print_freq=1, save_checkpoint_freq=3)
    return opt


@pytest.fixture
def folder(tmp_path):
    make_folders(tmp_path, pairs=3)
    return tmp_path


def start(folder, *arguments, launch=()):
    """Both processes and what launches them, in a session of their own."""
    return subprocess.Popen(
        [*TORCHRUN, *launch, *TRAIN, *map(str, arguments)],
        cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process, code=0, timeout=120):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, err[-3000:]
    return out + err


def losses(folder):
    return read_json_lines(folder / "experiments/tiny/losses.jsonl")


def networks(folder):
    paths = sorted((folder / "experiments/tiny/models").glob("net_*_latest.pth"))
    contents = {path.name: torch.load(path, weights_only=True) for path in paths}
    return {name: {key: content[key] for key in content if key != "about"} for name, content in contents.items()}


def assert_same_networks(a, b):
    assert a.keys() == b.keys() != set()
    for name in a:
        assert a[name].keys() == b[name].keys()
        for kind in a[name]:
            for parameter, value in a[name][kind].items():
                assert torch.equal(value, b[name][kind][parameter]), f"{name} {kind} {parameter}"


def best(folder):
    return (folder / "experiments/tiny/models/best.json").read_text()


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_bit_for_bit(folder, tmp_path_factory, kills):
    opt = options()
    opt["datasets"]["train"].update(num_worker_per_gpu=1, persistent_workers=True)
    write_options(folder, opt)
    finish(start(folder))
    whole = losses(folder)
    assert [entry["iter"] for entry in whole] == list(range(1, 15))
    rng = random.Random(kills)
    resumed = 0
    for number in range(kills):
        other = tmp_path_factory.mktemp(f"killed{number}")
        make_folders(other, pairs=3)
        write_options(other, opt)
        process = start(other)
        wanted = rng.randrange(1, 14)
        while process.poll() is None and len(losses(other)) < wanted:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        text = finish(start(other, "--auto_resume"))
        resumed += "Resuming from epoch" in text
        assert losses(other) == whole
        assert_same_networks(networks(other), networks(folder))
        assert best(other) == best(folder)
        assert not list((other / "experiments").rglob("*.tmp*"))
    assert resumed


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(folder):
    write_options(folder, options())
    finish(start(folder, "--force_yml", "train:total_iter=9"))
    done = run(folder, "train", "-opt", "options.yml", "--auto_resume", "--force_yml", "train:total_iter=12")
    assert done.returncode == 0, done.stderr
    assert "of another number of processes" in done.stderr
    assert "train.total_iter: 9 → 12" in done.stderr
    text = finish(start(folder, "--auto_resume"))
    assert ", iteration 12." in text
    assert [entry["iter"] for entry in losses(folder)] == list(range(1, 15))


@pytest.mark.slow
def test_validation_is_shared_out_and_gives_the_same_figures(folder):
    write_options(folder, options())
    finish(start(folder, "--force_yml", "val:save_img=true"))
    opt = tiny_options()
    for network in ("network_d", "network_p"):
        opt.pop(network, None)
    opt["datasets"] = {"test": {**opt["datasets"]["val"], "name": "pairs"}}
    opt["path"] = {"pretrain_network_s": "experiments/tiny/models"}
    del opt["train"]
    write_options(folder, opt, "test.yml")
    assert run(folder, "test", "-opt", "test.yml").returncode == 0
    alone = {p.name: p.read_bytes() for p in (folder / "results/tiny").rglob("*.*") if p.suffix in (".csv", ".png")}
    done = torchrun(folder, "from nlcl_plugin.cli import main; raise SystemExit(main())", *TEST)
    assert done.returncode == 0, done.stderr[-3000:]
    shared = {p.name: p.read_bytes() for p in (folder / "results/tiny").rglob("*.*") if p.suffix in (".csv", ".png")}
    assert len(alone) > 3
    assert shared == alone


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_stops_all_processes_after_the_same_step_and_spares_the_loaders_until_then(folder, to_all):
    opt = options()
    opt["datasets"]["train"].update(num_worker_per_gpu=1, persistent_workers=True)
    opt["train"].update(total_iter=100000, restorer_opt=None)
    opt["logger"]["save_checkpoint_freq"] = opt["val"]["val_freq"] = 100000
    write_options(folder, opt)
    process = start(folder)
    while process.poll() is None and len(losses(folder)) < 3:
        time.sleep(0.01)
    if to_all:
        process.send_signal(signal.SIGINT)  # torchrun passes it on to each process and its loader workers
    else:
        os.kill(_worker(process.pid, rank=1), signal.SIGTERM)
    text = finish(process, code=1)  # torchrun's own, as its processes end with 5
    assert "saved; resume with --auto_resume" in text, text[-3000:]
    assert "Traceback" not in text.split("saved; resume")[0]
    (state,) = (folder / "experiments/tiny/training_states").glob("*.state")
    assert losses(folder)[-1]["iter"] == int(state.stem)


def _worker(agent, rank):
    """The process of a rank below torchrun."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(agent)], capture_output=True, text=True, check=True)
    for pid in map(int, children.stdout.split()):
        with open(f"/proc/{pid}/environ", "rb") as file:
            if f"RANK={rank}".encode() in file.read().split(b"\0"):
                return pid
    raise AssertionError("no such process")


@pytest.mark.slow
def test_torchrun_restarts_a_run_whose_process_died_and_it_goes_on(folder):
    write_options(folder, options())
    finish(start(folder))
    whole, expected = losses(folder), networks(folder)
    for path in (folder / "experiments").iterdir():
        path.rename(folder / "kept")
    process = start(folder, "--auto_resume", launch=["--max-restarts=1"])
    while process.poll() is None and len(losses(folder)) < 7:
        time.sleep(0.002)
    os.kill(_worker(process.pid, rank=0), signal.SIGKILL)
    text = finish(process)
    assert "Resuming from epoch" in text
    assert losses(folder) == whole
    assert_same_networks(networks(folder), expected)


@pytest.mark.slow
def test_nan_in_one_process_stops_all_and_names_its_images(folder):
    write_options(folder, options())
    script = (
        "import sys, time, torch; import nlcl_plugin.training.train as module\n"
        "from nlcl_plugin.models.nlcl_model import NLCLModel; from nlcl_plugin.cli import main\n"
        "feed = NLCLModel.feed_data\n"
        "def poison(self, data):\n"
        "    feed(self, data)\n"
        "    if self.opt['rank'] == 1 and self.is_train and data['lq_path'] != ['noise'] and self.current_iter == 3:\n"
        "        self.lq = self.lq * float('nan')\n"
        "NLCLModel.feed_data = poison\n"
        "train = module.train\n"
        "def leave_late(opt, option_file):\n"  # torchrun would end the one that is still at work
        "    try:\n"
        "        return train(opt, option_file)\n"
        "    finally:\n"
        "        time.sleep(3 * opt['rank'])\n"
        "module.train = leave_late\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = torchrun(folder, script, *TRAIN[2:])
    assert done.returncode == 1
    assert done.stderr.count("exitcode  : 4") == 2
    assert "destroy_process_group" not in done.stderr
    assert "is nan at iteration 4 (images: rainy/rainy_" in done.stderr
    assert sorted(p.name for p in (folder / "experiments/tiny/training_states").glob("*.state")) == ["3.state"]


@pytest.mark.slow
def test_a_fault_of_one_process_in_a_validation_saves_the_state_of_all_first(folder):
    opt = options()
    opt["logger"]["save_checkpoint_freq"] = 100
    opt["datasets"]["val_2"] = {**opt["datasets"]["val"], "name": "again"}  # others must not wait in the next one
    write_options(folder, opt)
    script = (
        "import sys; from nlcl_plugin.models.nlcl_model import NLCLModel; from nlcl_plugin.cli import main\n"
        "test = NLCLModel.test\n"
        "def fail(self):\n"
        "    if self.opt['rank'] == 1 and self.current_iter == 6:\n"
        "        raise ValueError('of the network')\n"
        "    test(self)\n"
        "NLCLModel.test = fail\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = torchrun(folder, script, *TRAIN[2:])
    assert done.returncode == 1
    assert "ValueError: of the network" in done.stderr
    assert "State of iteration 6 saved" in done.stderr
    states = sorted(p.name for p in (folder / "experiments/tiny/training_states").glob("*.state"))
    assert states == ["3.state", "6.state"]  # of the best validation so far, and of the fault
    assert "iteration 6." in finish(start(folder, "--auto_resume"))
