"""What the tests of broken and hostile files share: byte mutations, and a watch over what a file makes happen."""

import functools
import os
import struct
import sys

NUMBERS = [0, 1, 2, 255, 1 << 15, (1 << 16) - 1, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
FLOATS = [float("nan"), float("inf"), float("-inf"), -1.0, 2.0, 1e30]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


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


def assert_one_line(error, path=None):
    message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) < 1200, (message[:200], message[-200:])
    assert path is None or str(path) in message
