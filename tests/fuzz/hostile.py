"""What the tests of broken and hostile files share: byte mutations, and a watch over what a file makes happen."""

import functools
import importlib.util
import os
import random
import signal
import struct
import sys

import torch
from conftest import REPOSITORY
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

NUMBERS = [0, 1, 2, 255, 1 << 15, (1 << 16) - 1, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
FLOATS = [float("nan"), float("inf"), float("-inf"), -1.0, 2.0, 1e30]
LINES = [
    b"[" * 100_000 + b"\n", b"9" * 5000 + b"\n", b"null\n", b"{}\n", b"\xff\xfe\n", b"\0\n", b"\n", b"{", b'"a"\n',
    b"{}" * 9 + b"\n",
]  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def examples(count):
    """A test gets so many generators of random numbers, in every run the same ones; a failure tells its seed."""

    def decorate(work):
        @settings(
            max_examples=count,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],  # smaller numbers are no smaller examples
            suppress_health_check=list(HealthCheck),
        )
        @given(st.integers(0, 2**64 - 1))
        def run(seed):
            work(random.Random(seed))

        return run

    return decorate


def mutated(draw, data):
    """Bytes with one change."""
    # Headers are at the beginning or, in archives, at the end.
    part = draw.random()
    at = int(len(data) * draw.choice([part, part / 10, 0.9 + part / 10]))
    what = draw.choice(["cut", "flip", "flip", "write", "number", "remove", "insert", "repeat"])
    if what == "flip" and data:
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    if what in ("write", "number"):
        new = draw.randbytes(draw.randint(1, 8))
        if what == "number" and draw.random() < 0.25:
            new = struct.pack(draw.choice(["<f", ">f"]), draw.choice(FLOATS))
        elif what == "number":
            kind = draw.choice(["<I", ">I", "<H", ">H", "<Q"])
            new = struct.pack(kind, draw.choice(NUMBERS) & (2 ** (8 * struct.calcsize(kind)) - 1))
        return data[:at] + new + data[at + len(new) :]
    if what == "remove":
        return data[:at] + data[at + draw.randint(1, 64) :]
    if what == "insert":
        return data[:at] + draw.randbytes(draw.randint(1, 64)) + data[at:]
    if what == "repeat":
        return data[:at] + data[at // 2 : at] * draw.randint(1, 3) + data[at:]
    return data[:at]


def in_child(work):
    """Do work in a process of its own; returns its exit code, negative if a signal ended it."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.alarm(30)
            torch.set_num_threads(1)  # torch would wait for ever for its other threads, which a fork leaves behind
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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


@functools.cache
def watch():
    return Watch()


def tool(name):
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_one_line(error, path=None):
    message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) < 1200, (message[:200], message[-200:])
    assert path is None or str(path) in message
