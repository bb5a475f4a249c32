"""Whatever becomes of a network file or a training state, it works or is refused in one line.

No code is run, nothing is written, and no more memory taken than a file of that size may need. The draws are derived
from the test itself, so that every run sees the same examples.
"""

import collections
import copy
import functools
import io
import json
import os
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hostile import assert_one_line, examples, mutated, places, watched

from nlcl_plugin.archs import LayerGenerator, ResidualUNet
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.networks import weights
from nlcl_plugin.networks.about import as_metadata, describe
from nlcl_plugin.networks.network_file import read_network_file
from nlcl_plugin.training import checkpoint

MEMORY = 200 << 20
RAINY = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)


# whole files ----------------------------------------------------------------------------------------------------------
def network_content(kind=ResidualUNet):
    torch.manual_seed(0)
    block = {"type": kind.__name__, "num_feat": 4, "num_block": 1}
    net = kind(num_feat=4, num_block=1)
    weights = net.state_dict()
    label = "s" if kind is ResidualUNet else "g"
    return {"params": weights, "params_ema": copy.deepcopy(weights), "about": describe(block, label, net=net)}


def mmengine_content():
    """As `nlcl_plugin.mm.checkpoints` writes it."""
    networks = {"average_generator": network_content(LayerGenerator), "restorer": network_content()}
    weights = {f"{name}.{key}": value for name, one in networks.items() for key, value in one["params"].items()}
    history = [torch.rand(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), 10]
    return {
        "meta": {"epoch": 0, "iter": 3, "cfg": "a = 1"},
        "state_dict": collections.OrderedDict(weights),
        "message_hub": {"log_scalars": {"train/loss": history}, "runtime_info": {"iter": 2}, "resumed_keys": {}},
        "nlcl_plugin": {name: one["about"] for name, one in networks.items()},
    }


def state_content():
    net = ResidualUNet(num_feat=4, num_block=1)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(1, 3, 16, 16)).sum().backward()
    optimizer.step()
    schedule = {"milestones": collections.Counter([3, 5]), "last_epoch": 3, "gamma": 0.5}
    random = [{"python": [3, [1, 2, 3], None], "torch": torch.get_rng_state()}]
    run = {"place": 1, "random": random, "best": None, "skipped": [], "options": {"name": "x", "train": {"lr": 1e-4}}}
    return {"epoch": 1, "iter": 3, "optimizers": [optimizer.state_dict()], "schedulers": [schedule], "run": run}


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


# mutations of archives and of content ---------------------------------------------------------------------------------
def rezipped(data, change, compression=zipfile.ZIP_STORED):
    """An archive whose entries are passed through a function that gives other ones."""
    source, file = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as target:
        warnings.simplefilter("ignore")  # of names that are there twice
        for number, name in enumerate(source.namelist()):
            for new_name, content in change(number, name, source.read(name)):
                target.writestr(new_name, content)
    return file.getvalue()


def pickled(code):
    """A file of `torch.save` whose pickle is another."""
    whole = saved({"params": {"a": torch.ones(2)}})
    return rezipped(whole, lambda _, name, content: [(name, code if name.endswith("data.pkl") else content)])


def call(module, name, *arguments):
    """Opcodes that call a function, with protocol 2, which is all that torch reads."""
    body = b"".join(pickle.dumps(argument, protocol=2)[2:-1] for argument in arguments)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + body + b"tR."


class Reduce:
    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return self.how


def laughs(depth):
    """A list of lists that means 2 ** depth things and is small."""
    value = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def ordered(attributes, **entries):
    """An OrderedDict with attributes in the way of its methods."""
    value = collections.OrderedDict(entries)
    value.__dict__.update(attributes)
    return value


def spread(*shape):
    """One stored value that says it is many."""
    return torch.ones(1).expand(shape)


HEX = b"\x80\x02" + b"c_codecs\nencode\n" * 30 + b"X\x04\x00\x00\x00aaaa" + b"X\x03\x00\x00\x00hex\x86R" * 30 + b"."
HOSTILE_PICKLES = [
    *(
        call(*how)
        for how in (
            ("os", "system", "touch canary"),
            ("posix", "system", "touch canary"),
            ("builtins", "eval", "__import__('os').system('touch canary')"),
            ("builtins", "exec", "open('canary', 'w')"),
            ("__builtin__", "eval", "open('canary', 'w')"),
            ("builtins", "getattr", "a", "upper"),
            ("builtins", "open", "canary", "w"),
            ("subprocess", "Popen", ["touch", "canary"]),
            ("subprocess", "check_output", ["touch", "canary"]),
            ("shutil", "rmtree", "canary"),
            ("runpy", "run_path", "canary"),
            ("importlib", "import_module", "antigravity"),
            ("torch.hub", "load", "x/y", "z"),
            ("torch", "load", "canary"),
            ("torch.utils.cpp_extension", "load", "canary", ["canary.cpp"]),
            ("torch._utils", "_rebuild_wrapper_subclass", 1, 2, 3, 4, 5, 6, 7),
            ("torch._utils", "_rebuild_device_tensor_from_numpy", 1, 2, 3, 4),
            ("torch._utils", "_import_dotted_name", "os.system"),
            ("torch._utils", "_rebuild_qtensor", 1, 2, 3, 4, 5, 6, 7),
            ("torch._tensor", "_rebuild_from_type_v2", 1, 2, 3, 4),
            ("builtins", "bytearray", 400_000_000),
            ("__builtin__", "bytearray", 400_000_000),
            ("torch", "FloatTensor", 100_000_000),
            ("torch", "FloatTensor", 10**12),
            ("torch", "Tensor", 100_000_000),
            ("collections", "Counter", "abc"),
            ("torch", "Size", [10**9]),
            ("torch", "device", "cuda:7"),
        )
    ),
    b"\x80\x02" + b"c_codecs\nencode\n" * 28 + b"C\x04aaaa" + b"X\x03\x00\x00\x00hex\x86R" * 28 + b".",
    HEX,
    b"\x80\x02ctorch\nTensor\n)\x81}b.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch canary\x85R.",
    b"\x80\x02" + b"(" * 5000 + b".",
    b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    b"\x80\x02X\xff\xff\xff\x7fabc.",
    b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
    b"cos\nsystem\n(S'touch canary'\ntR.",
    b".",
    b"",
    pickle.dumps(Reduce(os.mkdir, ("canary",)), protocol=2),
    pickle.dumps(Reduce(eval, ("1",)), protocol=4),
    pickle.dumps({"params": {"a": Reduce(print, ("canary",))}}, protocol=0),
]
ODD_TENSORS = [
    torch.full((4, 3, 3, 3), float("nan")),
    torch.full((4, 3, 3, 3), float("inf")),
    torch.ones(0),
    torch.tensor(1.0),
    spread(10**4, 10**4),
    spread(10**6, 10**6),
    spread(2**62),
    torch.ones(4, 3, 3, 3).to_sparse(),
    torch.ones(4, 3, 3, 3, device="meta"),
    torch.quantize_per_tensor(torch.ones(4, 3, 3, 3), 1.0, 0, torch.qint8),
    torch.ones(4, 3, 3, 3).to(torch.float8_e4m3fn),
    torch.ones(4, 3, 3, 3).to(torch.complex64),
    torch.ones(4, 3, 3, 3, dtype=torch.bool),
    torch.ones(4, 3, 3, 3, dtype=torch.int64),
    torch.ones(4, 3, 3, 3, dtype=torch.float64) * 1e300,
    torch.ones(4, 3, 3, 3).half(),
    torch.nn.Parameter(torch.ones(4, 3, 3, 3)),
    "no tensor",
    None,
    3,
    {"weight": torch.ones(1)},
]
ODD_VALUES = [
    None, True, 0, -1, 3, 64, 4000, 10**6, 10**9, 2**31, 2**63, 10**30, 0.5, float("nan"), float("inf"), -1e308, "",
    "x", "image", "rain", "residual", "LayerGenerator", "ResidualUNet", "SimpleGateUNet", "PatchDiscriminator",
    "SwinIR", "VGGFeatureExtractor", "DFDNet", "StyleGAN2Generator", "RRDBNet", "EDVR", "BasicVSR", "os.system",
    "../../x", "/etc/passwd", "two\nlines", "\x1b[31m", "nul\0", "\ud800", "ä→ß" * 300, b"bytes", [], [[]], {},
    {"a": {}}, {"type": "x"}, {1: 2}, (1, 2), {3}, nested(30), nested(600), laughs(40), torch.ones(2), torch.tensor(4),
    torch.Size([3]), torch.float32, torch.device("cpu"), complex(1, 2), collections.Counter("aab"),
    ordered({"items": 3, "get": None, "keys": 1}, type="ResidualUNet"),
]  # fmt: skip
PLAIN_VALUES = [*ODD_VALUES[: ODD_VALUES.index("ä→ß" * 300)], [], [[]], {}, {"a": {}}, nested(30), nested(600)]
ODD_KEYS = [3, None, True, "", "params", "module.", "gen.x", "a\0b", "last.bias", "two\nlines", (1, 2), "about", b"x"]


def content(draw, whole):
    """What a file holds, changed in some places."""
    value = copy.deepcopy(whole)
    for _ in range(draw.choice([1, 1, 2, 3])):
        found = list(places(value))
        about = [place for place in found if "about" in place]
        *above, key = draw.choice(about if about and draw.random() < 0.5 else found)
        holder = value
        for step in above:
            holder = holder[step]
        kind = draw.choice(["odd", "odd", "odd", "delete", "rename", "hide", "bounds"])
        if kind == "odd":
            odd = ODD_TENSORS if isinstance(holder[key], torch.Tensor) or draw.random() < 0.2 else ODD_VALUES
            holder[key] = draw.choice(odd)
        elif kind == "delete":
            del holder[key]
        elif kind == "rename" and isinstance(holder, dict):
            entry = holder.pop(key)
            holder[draw.choice(ODD_KEYS)] = entry
        elif kind == "hide" and isinstance(holder[key], dict):
            attributes = dict.fromkeys(("items", "get", "values", "keys", "_metadata", "copy"), 1)
            entries = collections.OrderedDict(holder[key])
            entries.__dict__.update(attributes)
            holder[key] = entries
        elif kind == "bounds" and isinstance(holder[key], int | float):
            holder[key] = draw.choice([-holder[key], 10 * holder[key] + 1, 10**6 * (holder[key] + 1)])
        if not isinstance(value, dict) or not value:
            break
    try:
        return saved(value, _use_new_zipfile_serialization=draw.random() < 0.8)
    except Exception:  # what cannot be saved is no example
        return saved(None)


@functools.cache
def bomb(whole):
    """An archive whose first tensor unpacks to 300 MB."""
    return rezipped(
        whole,
        lambda number, name, data: [(name, bytes(300_000_000) if name.endswith("data/0") else data)],
        zipfile.ZIP_DEFLATED,
    )


def archives(draw, whole):
    """An archive with other names, other contents, or packed otherwise."""
    kind = draw.choice(["rename", "drop", "double", "payload", "pickle", "deflate", "bomb", "bytes"])
    which = draw.randint(0, 12)
    name = draw.choice(["../../canary", "/tmp/canary", "x", "archive/data.pkl", "archive/constants.pkl", "archive/"])

    def changed(number, old, data):
        if kind == "pickle" and old.endswith("data.pkl"):
            return [(old, mutated(draw, data))]
        if number != which or kind in ("pickle", "deflate"):
            return [(old, data)]
        return {
            "rename": [(name, data)],
            "drop": [],
            "double": [(old, data), (old, mutated(draw, data))],
            "payload": [(old, mutated(draw, data))],
        }.get(kind, [(old, data)])

    if kind == "bomb":
        return bomb(whole)
    data = rezipped(whole, changed, zipfile.ZIP_DEFLATED if kind == "deflate" else zipfile.ZIP_STORED)
    return mutated(draw, data) if kind == "bytes" else data


def safetensors_file(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors_files(draw, whole):
    """A .safetensors file with another header."""
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    kind = draw.choice(["about", "shape", "dtype", "offsets", "name", "length", "bytes", "about"])
    name = draw.choice(sorted(set(header) - {"__metadata__"}))
    if kind == "about":
        about = json.loads(header["__metadata__"]["nlcl_plugin"])
        found = list(places(about))
        *above, key = draw.choice(found)
        holder = about
        for step in above:
            holder = holder[step]
        holder[key] = draw.choice(PLAIN_VALUES)
        text = draw.choice([json.dumps(about)] * 6 + ["[" * 100_000, "9" * 5000, "{", "null", "[]"])
        header["__metadata__"]["nlcl_plugin"] = text
    elif kind == "shape":
        header[name]["shape"] = draw.choice([[10**9, 10**9], [-1], [], [0], [1e3], "x", [2**63, 2]])
    elif kind == "dtype":
        header[name]["dtype"] = draw.choice(["F64", "F16", "F8_E4M3", "BOOL", "I64", "C64", "x", "F4", None])
    elif kind == "offsets":
        header[name]["data_offsets"] = draw.choice([[0, 10**12], [5, 1], [-1, 4], [0, 0], [0]])
    elif kind == "name":
        header[draw.choice([str(key) for key in ODD_KEYS])] = header.pop(name)
    if kind == "length":
        return struct.pack("<Q", draw.choice([0, 1, 2**63, 2**40, length - 1])) + whole[8:]
    new = safetensors_file(header, data)
    return mutated(draw, new) if kind == "bytes" else new


# networks -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def whole():
    """Each kind of file, as it should be."""
    networks = [network_content(), network_content(LayerGenerator), mmengine_content()]
    files = {"contents": networks, "pth": [saved(one) for one in networks]}
    files["old"] = saved(networks[0], _use_new_zipfile_serialization=False)
    files["safetensors"] = weights.safetensors_bytes(networks[0]["params"], as_metadata(networks[0]["about"]))
    return files


def check_network(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    home = os.getcwd()
    os.chdir(folder)
    try:
        with watched(MEMORY):
            for work in (lambda: read_network_file(path), lambda: ImageDerainer(path, device="cpu").array(RAINY)):
                if path.suffix == ".onnx" and work.__code__.co_names[0] == "read_network_file":
                    continue
                try:
                    result = work()
                except InputError as error:
                    assert_one_line(error)
                    continue
                if isinstance(result, np.ndarray):
                    assert (result.shape, result.dtype) == (RAINY.shape, RAINY.dtype)
                else:
                    json.dumps(result.about)  # as it is noted beside the results
    finally:
        os.chdir(home)
    assert os.listdir(folder) == [name]


def networks(draw, whole):
    """A mutated network file: its name and its bytes."""
    kind = draw.choice(["content"] * 6 + ["archive"] * 4 + ["pickle"] * 2 + ["bytes"] * 4 + ["safetensors"] * 3)
    number = draw.randint(0, 2)
    if kind == "content":
        return "net_s.pth", content(draw, whole["contents"][number])
    if kind == "archive":
        return "net_s.pth", archives(draw, whole["pth"][number])
    if kind == "pickle":
        code = draw.choice(HOSTILE_PICKLES)
        return "net_s.pth", draw.choice([code, pickled(code)])
    if kind == "safetensors":
        return "net_s.safetensors", safetensors_files(draw, whole["safetensors"])
    name, data = draw.choice(
        [
            ("a.pth", whole["pth"][0]),
            ("a.pth", whole["old"]),
            ("a.safetensors", whole["safetensors"]),
            ("a.safetensors", whole["pth"][0]),
            ("a.pth", whole["safetensors"]),
            ("a", whole["pth"][0]),
        ]
    )
    for _ in range(draw.randint(1, 4)):
        data = mutated(draw, data)
    return name, data


def fuzz_networks(folder, whole, count):
    @examples(count)
    def run(draw):
        for old in folder.iterdir():
            old.unlink()
        check_network(folder, *networks(draw, whole))

    run()


def test_mutated_network_files_work_or_are_refused_in_one_line(tmp_path, whole):
    fuzz_networks(tmp_path, whole, 60)


@pytest.mark.slow
def test_a_thousand_mutated_network_files(tmp_path, whole):
    fuzz_networks(tmp_path, whole, 1000)


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
        state = {**state_content(), "iter": iteration}
        (root / "states" / f"{iteration}.state").write_bytes(saved(state))
        (root / "models" / f"net_g_{iteration}.pth").write_bytes(saved(network_content()))
        checkpoint.seal(opt, iteration)
    return opt


def check_state(root, opt, draw, whole):
    opt = copy.deepcopy(opt)
    path = root / "states" / "3.state"
    seal = path.with_suffix(".sha256")
    victim = draw.choice([path, path, root / "models" / "net_g_3.pth", seal])
    before = victim.read_bytes()
    kept = seal.read_bytes()
    kind = draw.choice(["content", "content", "archive", "pickle", "bytes", "bytes"])
    if kind == "bytes" or victim == seal:
        data = mutated(draw, before)
    elif kind == "content":
        data = content(draw, state_content() if victim == path else whole["contents"][0])
    elif kind == "archive":
        data = archives(draw, before)
    else:
        data = draw.choice(HOSTILE_PICKLES)
        data = draw.choice([data, pickled(data)])
    victim.write_bytes(data)
    if victim != seal and draw.random() < 0.6:  # nobody knows that it was changed
        if draw.random() < 0.5:
            seal.unlink()
        else:
            checkpoint.seal(opt, 3)
    if draw.random() < 0.3:
        opt.update(auto_resume=False)
        opt["path"]["resume_state"] = str(path)
    try:
        with warnings.catch_warnings(record=True) as told, watched(MEMORY):
            warnings.simplefilter("always")
            try:
                state = checkpoint.load_resume_state(opt)
                assert state["iter"] in (2, 3)
                assert opt["auto_resume"] or state["iter"] == 3
            except InputError as error:
                assert not opt["auto_resume"]  # else the one before it is whole
                assert_one_line(error, root)
        for warning in told:
            assert "\n" not in str(warning.message) or "InputError" not in str(warning.message)
    finally:
        victim.write_bytes(before)
        seal.write_bytes(kept)


def fuzz_states(folder, whole, count):
    opt = run_folder(folder)

    @examples(count)
    def run(draw):
        check_state(folder, opt, draw, whole)

    run()


def test_a_mutated_checkpoint_is_refused_and_the_one_before_it_used(tmp_path, whole):
    fuzz_states(tmp_path, whole, 60)


@pytest.mark.slow
def test_a_thousand_mutated_checkpoints(tmp_path, whole):
    fuzz_states(tmp_path, whole, 1000)
