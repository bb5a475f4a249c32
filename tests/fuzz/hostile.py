"""What the tests of broken and hostile files share: byte mutations, and a watch over what a file makes happen."""

import contextlib
import functools
import importlib.util
import os
import random
import resource
import struct
import sys
from pathlib import Path

from conftest import REPOSITORY
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

NUMBERS = [0, 1, 2, 255, 1 << 15, (1 << 16) - 1, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
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
        if what == "number":
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


@contextlib.contextmanager
def watched(memory):
    """Within it nothing may be run or written, and no more than so many bytes of memory be taken."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = peak()
    watch().seen.clear()
    # What would take the whole machine ends here; less shows below.
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * memory, limits[1]))
    watch().on = True
    try:
        yield
    finally:
        watch().on = False
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert watch().seen == []
    assert peak() - before < memory


def peak():
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


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
    assert len(message) < 1200
    assert path is None or str(path) in message
