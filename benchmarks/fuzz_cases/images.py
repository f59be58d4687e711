"""Image files, whole and damaged, against Pillow alone."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fuzz_cases.damage import DAMAGE, Damage, damaged
from fuzz_cases.kind import Outcome, expect
from reid_ray.data.decoding import decode_image
from reid_ray.data.headers import BrokenImage


@cache
def originals() -> list[tuple[str, bytes]]:
    """Files of every format and several modes, all of one small picture."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 4, 3), dtype=np.uint8))
    image = coarse.resize((24, 40), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(rng.integers(0, 2**16, (40, 24), dtype=np.uint16))
    forms: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", image, {}),
        ("JPEG", image, {"progressive": True, "quality": 60}),
        ("JPEG", image, {"restart_marker_blocks": 2, "subsampling": 0}),
        ("JPEG", image.convert("L"), {"exif": exif}),
        ("JPEG", image.convert("CMYK"), {}),
        *[("PNG", image.convert(mode), {}) for mode in ("1", "L", "P", "RGB", "RGBA", "LA")],
        ("PNG", grey, {}),
        ("PNG", image, {"exif": exif, "compress_level": 0}),
        ("GIF", image.convert("P"), {}),
        ("GIF", image.convert("L"), {"interlace": 1}),
        ("WEBP", image, {}),
        ("WEBP", image.convert("RGBA"), {"lossless": True, "exif": exif}),
        *[("BMP", image.convert(mode), {}) for mode in ("1", "L", "P", "RGB", "RGBA")],
        *[
            ("TIFF", image, {"compression": name})
            for name in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")
        ],
        ("TIFF", grey, {}),
        ("TIFF", image.convert("1"), {"compression": "group4"}),
        ("TIFF", image.convert("CMYK"), {}),
        *[("PPM", image.convert(mode), {}) for mode in ("1", "L", "RGB")],
    ]
    files = []
    for kind, form, options in forms:
        stream = io.BytesIO()
        form.save(stream, kind, **options)
        files.append((kind, stream.getvalue()))
    return files


@st.composite
def image_files(draw: st.DrawFn) -> tuple[int, list[Damage], int | None]:
    """Number of an original, damages, and for PNG possibly a false header with a correct checksum."""
    number = draw(st.integers(0, len(originals()) - 1))
    lie = draw(st.one_of(st.none(), st.integers(0, 2**40))) if originals()[number][0] == "PNG" else None
    return number, draw(st.lists(DAMAGE, max_size=4)), lie


def check_image(drawn: tuple[int, list[Damage], int | None], folder: Path) -> Outcome:
    number, damages, lie = drawn
    kind, whole = originals()[number]
    data = whole if lie is None else with_png_header(whole, lie)
    data = damaged(data, damages)
    try:
        pixels = decode_image(data).pixels
    except BrokenImage:
        expect(bool(damages) or lie is not None, f"a whole {kind} was refused")
        return "refused"
    expect(pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.shape[0] == 3, f"{kind}: {pixels.shape}")
    expect(min(pixels.shape) > 0 and pixels.is_contiguous(), f"{kind}: {pixels.shape}")
    is_cut_only = all(name == "cut" for name, *_ in damages)
    if lie is None and (kind == "PNG" or is_cut_only):  # PNG has checksums; truncated files are complete or rejected
        expect(torch.equal(pixels, expected_pixels(number)), f"a damaged {kind} was read as another picture")
    return "read"


@cache
def expected_pixels(number: int) -> torch.Tensor:
    """Decode with Pillow alone, as a viewer does; the upper 8 of 16 bits."""
    with Image.open(io.BytesIO(originals()[number][1])) as image:
        upright = ImageOps.exif_transpose(image)
    if upright.mode == "I;16":
        grey = (np.asarray(upright) >> 8).astype(np.uint8)
        return torch.from_numpy(np.stack([grey] * 3))
    return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)


def with_png_header(data: bytes, lie: int) -> bytes:
    """Another width, height, depth, colour type or interlacing, with a matching checksum."""
    header = bytearray(data[16:29])
    field, value = lie % 5, lie // 5
    if field < 2:
        header[4 * field : 4 * field + 4] = struct.pack(">I", value % 2**32 if value % 3 else value % 100)
    else:
        header[(8, 9, 12)[field - 2]] = value % 17
    return data[:16] + bytes(header) + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
