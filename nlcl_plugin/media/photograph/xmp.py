"""XMP packets: texts, captions, ratings and much else about a photograph, as XML.

See Adobe, XMP Specification Part 3 (2020), for where each format keeps them.
"""

from __future__ import annotations

import re
import zlib

JPEG_MARK = b"http://ns.adobe.com/xap/1.0/\0"  # of the segment APP1
PNG_KEYWORD = b"XML:com.adobe.xmp\0"  # of the chunk iTXt
_LARGEST = 16 << 20  # bytes when unpacked

# What speaks of other parts of the file, which are not written again: thumbnails, more XMP, depth, gain maps, videos.
_OF_PARTS = re.compile(
    rb"Thumbnails|HasExtendedXMP|MicroVideo|MotionPhoto|hdrgm:|HDRGainMap|Container:Directory|GDepth:|GImage:|GAudio:"
)
_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>\s*))[1-8](?=\s*[\"'<])")
_ANY_ORIENTATION = re.compile(rb"(?<!/)\b\w+:Orientation\b")
_SIDES = {
    b"tiff:ImageWidth": b"tiff:ImageLength",
    b"tiff:ImageLength": b"tiff:ImageWidth",
    b"exif:PixelXDimension": b"exif:PixelYDimension",
    b"exif:PixelYDimension": b"exif:PixelXDimension",
}


def set_upright(packet: bytes, orientation: int) -> bytes | None:
    """Mark a photograph as the right way up, after its pixels were turned.

    Its orientation becomes 1, and width and height change names where the turn changed them; the rest stays as it is.

    Args:
        packet: The XMP.
        orientation: What the pixels were turned by, 1 to 8 as in EXIF.

    Returns:
        The changed packet; None if it would not hold for the new file, or is in no form that can be changed here.
    """
    changed, found = _ORIENTATION.subn(rb"\g<1>1", packet)
    if b"\0" in packet or _OF_PARTS.search(packet) or found != len(_ANY_ORIENTATION.findall(packet)):
        return None
    if orientation >= 5:
        changed = re.sub(b"|".join(_SIDES), lambda side: _SIDES[side[0]], changed)
    return changed


def of_chunk(text: bytes) -> bytes:
    """Take the packet out of a PNG's iTXt chunk.

    Args:
        text: The chunk's content, which begins with `PNG_KEYWORD`.

    Returns:
        The packet; of a broken chunk all of it, which is none.
    """
    flags, rest = text[len(PNG_KEYWORD) :][:2], text[len(PNG_KEYWORD) + 2 :]
    packet = rest.partition(b"\0")[2].partition(b"\0")[2]  # behind the language and the translated keyword
    if flags[:1] != b"\1":
        return packet
    unpacker = zlib.decompressobj()
    try:
        packet = unpacker.decompress(packet, _LARGEST)
    except zlib.error:
        return text
    return packet if unpacker.eof else text


def chunk(packet: bytes) -> tuple[bytes, bytes]:
    """Make an iTXt chunk of a PNG file."""
    return b"iTXt", PNG_KEYWORD + bytes(4) + packet


def segment(packet: bytes) -> bytes:
    """Make an APP1 segment of a JPEG file."""
    content = JPEG_MARK + packet
    return b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
