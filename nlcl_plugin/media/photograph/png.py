"""The chunks of a PNG file: what Pillow and OpenCV drop is carried over by them."""

from __future__ import annotations

import struct
import zlib

from nlcl_plugin.media.photograph.xmp import PNG_KEYWORD

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Colour spaces, the resolution and texts. Other chunks speak of pixels as they were, or are unknown to us.
_KEPT = {b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tEXt", b"zTXt", b"iTXt"}
_STALE_TEXTS = (PNG_KEYWORD, b"Raw profile type ")  # XMP goes its own way; the others may hold an orientation
_LARGEST_PROFILE = 16 << 20  # bytes when unpacked; the largest printers' profiles are a few megabytes


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Take a PNG file apart.

    Args:
        data: The file.

    Returns:
        The type and the content of each chunk.

    Raises:
        ValueError: If it ends too early or a checksum is wrong.
    """
    chunks, at = [], len(SIGNATURE)
    while True:
        if at + 12 > len(data):
            raise ValueError("the file ends too early")
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise ValueError("the file ends too early")
        if zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError("a checksum is wrong")
        chunks.append((name, data[at + 8 : end - 4]))
        if name == b"IEND":
            return chunks
        at = end


def kept(chunks: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The chunks that still hold when the pixels are others."""
    return [(name, body) for name, body in chunks if name in _KEPT and not body.startswith(_STALE_TEXTS)]


def profile_of(chunk: bytes) -> bytes:
    """Unpack an iCCP chunk.

    Raises:
        ValueError: If it is broken or unpacks to more than a profile may have.
    """
    packed = chunk.partition(b"\0")[2][1:]
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed, _LARGEST_PROFILE)
    except zlib.error:
        profile = b""
    if not profile or not unpacker.eof:
        raise ValueError("the colour profile is broken")
    return profile


def with_chunks(data: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Put chunks behind the header of a PNG file, where those of colour have to stand.

    Args:
        data: The file.
        chunks: The type and the content of each.

    Returns:
        The longer file.
    """
    header = len(SIGNATURE) + 25
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return b"".join((data[:header], *packed, data[header:]))


def profile_chunk(profile: bytes) -> tuple[bytes, bytes]:
    """Make an iCCP chunk."""
    return b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)
