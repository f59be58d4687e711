"""Is an encoded image whole? Decoders fill the missing end of some truncated files with grey and say nothing,
so a decode that succeeds is not enough: the file's own end mark is looked for as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torchvision.io import ImageReadMode, decode_image

Fault = Literal["empty", "truncated", "unreadable"]

PNG_END = b"IEND\xaeB`\x82"
_JPEG_START = b"\xff\xd8"
_JPEG_END_MARKER, _JPEG_SCAN_MARKER = 0xD9, 0xDA
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""In entropy-coded data FF 00 is a stuffed byte, FF D0 … FF D7 are restart marks, and FF FF is padding."""


@dataclass(frozen=True)
class Inspection:
    """What a look at an encoded image shows.

    Attributes:
        height: pixels; 0 where it could not be decoded.
        width: the same.
        fault: what is wrong, None where nothing is.
        detail: what is wrong in words, to follow the file's name.
    """

    height: int = 0
    width: int = 0
    fault: Fault | None = None
    detail: str = ""


def inspect_image(data: bytes) -> Inspection:
    """Decode an encoded image and look for its end. An image that decodes and is truncated keeps its size."""
    if not data:
        return Inspection(fault="empty", detail="is empty (0 bytes)")
    truncated = is_truncated(data)
    try:
        image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError as error:
        if truncated:
            return Inspection(fault="truncated", detail="ends before the image does")
        return Inspection(fault="unreadable", detail=f"cannot be decoded ({_reason(error)})")
    if image.ndim != 3:
        return Inspection(fault="unreadable", detail=f"is an animation of {image.shape[0]} frames; keep one")
    height, width = int(image.shape[1]), int(image.shape[2])
    if image.dtype != torch.uint8:
        return Inspection(height, width, "unreadable", "has 16 bits per channel; convert it to 8")
    if truncated:
        return Inspection(height, width, "truncated", "ends before the image does")
    return Inspection(height, width)


def is_truncated(data: bytes) -> bool:
    """Whether the file ends before its format's end mark; False for what is no JPEG, PNG, GIF or WebP.

    Bytes behind the end mark are allowed (cameras append previews and padding), and the end mark of a JPEG
    thumbnail inside the header does not count for the image.
    """
    if data.startswith(_JPEG_START):
        return not _jpeg_reaches_end(data)
    if data.startswith(b"\x89PNG"):
        return PNG_END not in data
    if data.startswith(b"GIF8"):
        return not data.rstrip(b"\0").endswith(b";")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False


def _jpeg_reaches_end(data: bytes) -> bool:
    """Walk the segments by their lengths, and the scans by their markers, to the end-of-image marker."""
    position = len(_JPEG_START)
    while position + 1 < len(data):
        if data[position] != 0xFF:
            return False
        marker = data[position + 1]
        if marker == _JPEG_END_MARKER:
            return True
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        position += 2  # what follows is the segment's length, itself included
        position += int.from_bytes(data[position : position + 2], "big")
        if marker == _JPEG_SCAN_MARKER:
            found = _NEXT_MARKER.search(data, position)
            if found is None:
                return False
            position = found.start()
    return False


def _reason(error: RuntimeError) -> str:
    """The decoder's own words, without the place in its source."""
    return re.sub(r"^.*\.cpp:\d+, ", "", str(error).splitlines()[0]).rstrip(". ")
