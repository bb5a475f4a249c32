"""The chunks of a PNG file, which carry over what Pillow and OpenCV drop."""

from __future__ import annotations

import io
import zlib

from PIL import PngImagePlugin

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_XMP = b"XML:com.adobe.xmp\0"  # the keyword of an iTXt chunk

# Colour spaces, the resolution and texts. Other chunks speak of pixels as they were, or are unknown to us.
_KEPT = {b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tEXt", b"zTXt", b"iTXt"}
_STALE_TEXTS = (_XMP, b"Raw profile type ")  # XMP is kept apart; the others may contain an orientation
_LARGEST = 16 << 20  # bytes of a profile or an XMP packet when unpacked; the largest are a few megabytes

Chunk = tuple[bytes, bytes]


def chunks_of(data: bytes) -> list[Chunk]:
    """Take a PNG file apart into the types and the contents of its chunks.

    Raises:
        Exception: What Pillow raises if it ends too early or a checksum is wrong, which decoders let pass.
    """
    chunks: list[Chunk] = []
    file = io.BytesIO(data[len(_SIGNATURE) :])
    stream = PngImagePlugin.ChunkStream(file)
    while not chunks or chunks[-1][0] != b"IEND":
        name, _, length = stream.read()
        body = file.read(length)
        stream.crc(name, body)
        chunks.append((name, body))
    return chunks


def kept(chunks: list[Chunk]) -> list[Chunk]:
    """The chunks that still hold when the pixels are others."""
    return [(name, body) for name, body in chunks if name in _KEPT and not body.startswith(_STALE_TEXTS)]


def profile_of(chunks: list[Chunk]) -> bytes | None:
    """The colour profile; a broken one is a `ValueError` or a `zlib.error`."""
    packed = dict(chunks).get(b"iCCP")
    return None if packed is None else _unpacked(packed.partition(b"\0")[2][1:])


def xmp_of(chunks: list[Chunk]) -> bytes | None:
    """The XMP packet; what is broken is returned as it is, as no XMP."""
    text = next((body for name, body in chunks if name == b"iTXt" and body.startswith(_XMP)), None)
    if text is None:
        return None
    packet = text[len(_XMP) + 2 :].split(b"\0", 2)[-1]  # behind the language and the translated keyword
    try:
        return _unpacked(packet) if text[len(_XMP) :][:1] == b"\1" else packet
    except (ValueError, zlib.error):
        return text


def _unpacked(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(packed, _LARGEST)
    if not unpacker.eof:
        raise ValueError("the colour profile is broken")
    return content


def with_chunks(data: bytes, chunks: list[Chunk]) -> bytes:
    """Put chunks behind the header of a PNG file, where those of colour belong."""
    header, file = len(_SIGNATURE) + 25, io.BytesIO()
    for name, body in chunks:
        PngImagePlugin.putchunk(file, name, body)
    return data[:header] + file.getvalue() + data[header:]


def metadata_chunks(icc: bytes | None, exif: bytes | None, xmp: bytes | None) -> list[Chunk]:
    """The chunks of a colour profile, an EXIF block and an XMP packet."""
    chunks = [(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))] if icc else []
    chunks += [(b"eXIf", exif)] if exif else []
    return chunks + ([(b"iTXt", _XMP + bytes(4) + xmp)] if xmp else [])
