"""Damage to the bytes of a file."""

import struct

NUMBERS = [0, 1, 2, 255, 1 << 15, (1 << 16) - 1, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
FLOATS = [float("nan"), float("inf"), float("-inf"), -1.0, 2.0, 1e30]


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
