"""Parse encoded images before any decoder runs: format, size, and whether the file is complete.

Decoders trust headers. Reading the size first prevents a file of a few bytes from claiming gigabytes, and PNG data that
does not match its header never reaches a decoder. This module imports no codec.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Fault = Literal["empty", "truncated", "unreadable"]
Format = Literal["JPEG", "PNG", "GIF", "WebP", "BMP", "TIFF", "PNM"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_SIGNATURES: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8", "JPEG"),
    (PNG_SIGNATURE, "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    *((f"P{n}".encode(), "PNM") for n in range(1, 7)),
)

_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_STANDALONE = frozenset({0x01, *range(0xD0, 0xDA)})
"""JPEG markers without a length field: TEM, RST0 … RST7, SOI, EOI."""
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 … SOF15; C4, C8 and CC are tables."""
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""In entropy-coded data FF 00 is a stuffed byte, FF D0 … FF D7 are restart marks, and FF FF is padding."""

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by PNG colour type."""
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, row step and column step of the passes of an interlaced PNG."""

_INFLATE_BYTES = 2**20
"""Pixel data is inflated in pieces of this size, which are counted and discarded."""


class BrokenImage(Exception):  # noqa: N818  (it describes the image; callers turn it into a DataError with its name)
    """An encoded image cannot be read.

    Attributes:
        fault: the kind of damage.
        detail: description of the problem, to be placed after the file's name.
    """

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault: Fault = fault
        self.detail = detail


@dataclass(frozen=True)
class JpegHeader:
    """The frame header of a JPEG.

    Attributes:
        height, width: pixels, as encoded (before EXIF orientation).
        n_components: 1 grey, 3 colour, 4 CMYK.
        common: 8-bit Huffman coding, baseline or progressive, as cameras and datasets write it.
        exif: the payload of the first EXIF segment; empty without one.
    """

    height: int
    width: int
    n_components: int
    common: bool
    exif: bytes


def sniff(data: bytes) -> Format | None:
    """The format by the first bytes, independent of the file name; None if it is not supported."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return next((format_ for signature, format_ in _SIGNATURES if data.startswith(signature)), None)


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Walk the segments up to the first scan; None where there is no frame header before it."""
    frame, exif = None, b""
    for marker, start, stop in _jpeg_segments(data):
        if marker in _FRAME_HEADERS and frame is None and stop - start >= 6:
            frame = (marker, data[start:stop])
        elif marker == _APP1 and not exif and data[start : start + 6] == b"Exif\0\0":
            exif = data[start:stop]
    if frame is None:
        return None
    marker, content = frame
    return JpegHeader(
        height=int.from_bytes(content[1:3], "big"),
        width=int.from_bytes(content[3:5], "big"),
        n_components=content[5],
        common=marker in _HUFFMAN_FRAMES and content[0] == 8,
        exif=exif,
    )


def png_size(data: bytes) -> tuple[int, int]:
    """(height, width) of the image header."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise BrokenImage("truncated" if len(data) < 33 else "unreadable", "cannot be decoded (it has no PNG header)")
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def png_depth(data: bytes) -> int:
    """Bits per channel: 1, 2, 4, 8 or 16."""
    return data[24]


def webp_size(data: bytes) -> tuple[int, int]:
    """(height, width) of the canvas."""
    if len(data) < 30:
        raise BrokenImage("truncated", "ends before the image does")
    kind, bits = data[12:16], int.from_bytes(data[21:25], "little")
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF


def check_png(data: bytes) -> None:
    """Check every chunk's checksum, and that the pixel data inflates to as many bytes as the header announces.

    If data and header disagree, libpng crashes the process by a long jump and Pillow fills missing rows with zeros.

    Raises:
        BrokenImage: describes the first problem.
    """
    depth, colour, compression, filtering, interlace = data[24:29]
    if depth not in _PNG_DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise BrokenImage("unreadable", "cannot be decoded (its PNG header is none that exists)")
    pixel_data = []
    for kind, content in _png_chunks(data):
        if kind == b"IDAT":
            pixel_data.append(content)
    height, width = png_size(data)
    announced = _png_raw_bytes(height, width, depth * _PNG_CHANNELS[colour], interlaced=bool(interlace))
    try:
        n_inflated = _inflated_bytes(pixel_data, announced)
    except zlib.error as error:
        raise BrokenImage("unreadable", "has damaged pixel data") from error
    if n_inflated < announced:
        raise BrokenImage("truncated", f"holds fewer rows than the {height} of its header")


def is_truncated(data: bytes) -> bool:
    """Whether the file ends before its format's end mark; False for formats without one.

    Bytes after the end mark are allowed (cameras append previews and padding), and the end mark of a JPEG
    thumbnail inside the header does not count for the image.
    """
    match sniff(data):
        case "JPEG":
            return not _jpeg_reaches_end(data)
        case "PNG":
            return b"IEND\xaeB`\x82" not in data
        case "GIF":
            return not data.rstrip(b"\0").endswith(b";")
        case "WebP":
            return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the content of each segment up to the first scan, as libjpeg finds them."""
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        marker = data[position + 1]
        if marker in (0x00, 0xFF):  # stray byte, or padding before a marker
            position += 1
            continue
        position += 2
        if marker in _STANDALONE:
            if marker == _EOI:
                return
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        yield marker, min(position + 2, len(data)), min(position + max(length, 2), len(data))
        if marker == _SOS:
            return
        position += max(length, 2)


def _jpeg_reaches_end(data: bytes) -> bool:
    """Walk the segments by their lengths, and the scans by their markers, to the end-of-image marker."""
    position = 2
    while position + 1 < len(data):
        if data[position] != 0xFF:
            return False
        marker = data[position + 1]
        if marker == _EOI:
            return True
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        position += 2  # the segment's length, which includes its own two bytes
        position += int.from_bytes(data[position : position + 2], "big")
        if marker == _SOS:
            found = _NEXT_MARKER.search(data, position)
            if found is None:
                return False
            position = found.start()
    return False


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and content of each chunk up to the end chunk, with verified checksums."""
    view, position = memoryview(data), len(PNG_SIGNATURE)
    while True:
        length, kind = int.from_bytes(view[position : position + 4], "big"), bytes(view[position + 4 : position + 8])
        end = position + 8 + length
        if end + 4 > len(data):
            raise BrokenImage("truncated", "ends before the image does")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise BrokenImage("unreadable", f"is damaged: its {kind.decode('ascii', 'replace')} has a wrong checksum")
        if kind == b"IEND":
            return
        yield kind, view[position + 8 : end]
        position = end + 4


def _png_raw_bytes(height: int, width: int, bits_per_pixel: int, *, interlaced: bool) -> int:
    """Bytes of the filtered rows before compression: a filter byte and the packed pixels of each."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for first_row, first_column, row_step, column_step in passes:
        n_rows = -((first_row - height) // row_step) if height > first_row else 0
        n_columns = -((first_column - width) // column_step) if width > first_column else 0
        total += n_rows * (1 + (n_columns * bits_per_pixel + 7) // 8) if n_columns else 0
    return total


def _inflated_bytes(parts: list[memoryview], enough: int) -> int:
    """How many bytes the parts of one zlib stream inflate to; counting stops at `enough`."""
    inflater, total = zlib.decompressobj(), 0
    for part in parts:
        rest: bytes | memoryview = part
        while len(rest) and total < enough and not inflater.eof:
            total += len(inflater.decompress(rest, _INFLATE_BYTES))
            rest = inflater.unconsumed_tail
    return total if total >= enough else total + len(inflater.flush())
