"""Whatever becomes of a network file or a training state, it works or is refused in one line, and runs no code."""

import copy
import io
import os
import pickle
import random
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from basicsr.models.base_model import BaseModel
from mutations import mutated

from nlcl_plugin.archs import LayerGenerator, ResidualUNet
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.networks import weights
from nlcl_plugin.networks.about import as_metadata, describe
from nlcl_plugin.training import checkpoint

RAINY = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


class Watch:
    """Notes what the interpreter is asked to run or to change on disk, while it is on."""

    EVENTS = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen",
              "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
              "os.chown", "os.putenv", "shutil.rmtree", "socket.connect", "pickle.find_class")  # fmt: skip

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self.note)

    def note(self, event, args):
        if not self.on:
            return
        if event in self.EVENTS:
            self.seen.append((event, *map(repr, args)))
        elif event == "open" and isinstance(args[2], int) and args[2] & WRITING and args[0] != os.devnull:
            self.seen.append((event, repr(args[0])))


WATCH = Watch()


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def network_content(kind=ResidualUNet):
    torch.manual_seed(0)
    net = kind(num_feat=4, num_block=1)
    block = {"type": kind.__name__, "num_feat": 4, "num_block": 1}
    return {"params": net.state_dict(), "about": describe(block, "s" if kind is ResidualUNet else "g", net=net)}


def call(module, name, *arguments):
    """Opcodes that call a function, with protocol 2, which is all that torch reads."""
    body = b"".join(pickle.dumps(argument, protocol=2)[2:-1] for argument in arguments)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + body + b"tR."


def pickled(code):
    """A file of `torch.save` whose pickle is another."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.ones(2)}))) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            target.writestr(name, code if name.endswith("data.pkl") else source.read(name))
    return file.getvalue()


HOSTILE_PICKLES = [
    call("os", "system", "touch canary"),
    call("builtins", "eval", "__import__('os').system('touch canary')"),
    call("__builtin__", "eval", "open('canary', 'w')"),
    call("subprocess", "Popen", ["touch", "canary"]),
    call("torch.utils.cpp_extension", "load", "canary", ["canary.cpp"]),
    call("torch._utils", "_import_dotted_name", "os.system"),
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch canary\x85R.",
    b"cos\nsystem\n(S'touch canary'\ntR.",
    b"",
]


def watched(work):
    """Do work that may run no code and write nothing; returns its result, or None if it is refused in one line."""
    WATCH.seen.clear()
    WATCH.on = True
    try:
        return work()
    except InputError as error:
        message = str(error)
        assert "\n" not in message
        assert 0 < len(message) < 1200
        return None
    finally:
        WATCH.on = False
        assert WATCH.seen == []


@pytest.fixture(scope="module")
def whole():
    """Each kind of network file, as it should be."""
    content = network_content()
    return {
        "a.pth": saved(content),
        "generator.pth": saved(network_content(LayerGenerator)),
        "old.pth": saved(content, _use_new_zipfile_serialization=False),
        "a.safetensors": weights.safetensors_bytes(content["params"], as_metadata(content["about"])),
    }


def test_no_pickle_runs_code_whoever_loads_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, net = tmp_path / "net_s.pth", torch.nn.Linear(2, 2)
    for code in HOSTILE_PICKLES:
        for data in (code, pickled(code)):
            path.write_bytes(data)
            assert watched(lambda: ImageDerainer(path, device="cpu")) is None
            assert watched(lambda: BaseModel({"num_gpu": 0, "is_train": True}).load_network(net, str(path))) is None
            assert watched(lambda: weights.load_plain(path, "training state")) is None
    assert os.listdir(tmp_path) == ["net_s.pth"]
    pickle.loads(HOSTILE_PICKLES[0])  # noqa: S301
    assert (tmp_path / "canary").exists()  # it does run where it is let


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_network_files_work_or_are_refused_in_one_line(tmp_path, whole, count):
    for seed in range(count):
        draw = random.Random(seed)
        name = draw.choice(list(whole))
        data = whole[name]
        for _ in range(draw.randint(1, 4)):
            data = mutated(draw, data)
        (tmp_path / name).write_bytes(data)
        derained = watched(lambda path=tmp_path / name: ImageDerainer(path, device="cpu").array(RAINY))
        assert derained is None or (derained.shape, derained.dtype) == (RAINY.shape, RAINY.dtype)
    assert set(os.listdir(tmp_path)) <= set(whole)


# training states ------------------------------------------------------------------------------------------------------
def run_folder(root):
    """A sealed checkpoint of iteration 3, and one of iteration 2 before it."""
    opt = {
        "auto_resume": True,
        "network_g": {},
        "path": {"models": str(root / "models"), "training_states": str(root / "states")},
    }
    for name in ("models", "states"):
        (root / name).mkdir()
    for iteration in (2, 3):
        optimizer = torch.optim.Adam(ResidualUNet(num_feat=4, num_block=1).parameters())
        state = {"epoch": 1, "iter": iteration, "optimizers": [optimizer.state_dict()], "schedulers": []}
        (root / "states" / f"{iteration}.state").write_bytes(saved(state))
        (root / "models" / f"net_g_{iteration}.pth").write_bytes(saved(network_content()))
        checkpoint.seal(opt, iteration)
    return opt


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_mutated_checkpoint_is_refused_and_the_one_before_it_used(tmp_path, count):
    opt = run_folder(tmp_path)
    state, network = tmp_path / "states/3.state", tmp_path / "models/net_g_3.pth"
    seal = state.with_suffix(".sha256")
    files = {path: path.read_bytes() for path in (state, network, seal)}

    for seed in range(count):
        draw = random.Random(seed)
        victim = draw.choice([state, state, network, seal])
        hostile = draw.choice(HOSTILE_PICKLES)
        data = draw.choice([mutated(draw, files[victim]), mutated(draw, files[victim]), hostile, pickled(hostile)])
        victim.write_bytes(data)
        if victim != seal and draw.random() < 0.3:
            seal.unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resumed = watched(lambda: checkpoint.load_resume_state(copy.deepcopy(opt)))
        assert resumed["iter"] in (2, 3)  # never refused, as the one before it is whole
        for path, content in files.items():
            path.write_bytes(content)
