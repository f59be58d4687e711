"""Every format and mode that people bring becomes the RGB that a viewer shows, and damage never ends the process."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode, decode_jpeg

from reid_ray.config import DataConfig
from reid_ray.data import FileImages, read_dataset
from reid_ray.data.check import check
from reid_ray.data.decoding import SIXTEEN_BITS, STRETCHED, UPRIGHT, Decoding, convert, decode_image
from reid_ray.data.headers import BrokenImage, read_jpeg_header
from reid_ray.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 10, 3), dtype=np.uint8)

Pixels = npt.NDArray[np.uint8]


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(data: bytes, **settings: Any) -> Pixels:
    """uint8 [H, W, 3]."""
    pixels = decode_image(data, Decoding(**settings)).pixels
    assert (pixels.dtype, pixels.is_contiguous(), pixels.shape[0]) == (torch.uint8, True, 3)
    return pixels.permute(1, 2, 0).numpy()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(height: int, width: int, rows: bytes, *, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """A PNG of these filtered rows, whatever its header says."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# What is read


def modes() -> dict[str, Image.Image]:
    """An image of every mode that Pillow has."""
    image = Image.fromarray(PIXELS)
    made = {mode: image.convert(mode) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "RGBX")}
    made |= {"RGBa": made["RGBA"].convert("RGBa"), "La": made["LA"].convert("La"), "PA": made["P"].convert("PA")}
    grey = PIXELS[..., 0].astype(np.uint16) * 257
    sixteen = Image.fromarray(grey)
    made |= {"I;16": sixteen, "I": sixteen.convert("I"), "F": image.convert("F"), "LAB": Image.new("LAB", (10, 20))}
    return made | {mode: Image.frombytes(mode, (10, 20), grey.astype(order).tobytes()) for mode, order in BYTE_ORDERS}


BYTE_ORDERS = (("I;16L", "<u2"), ("I;16B", ">u2"), ("I;16N", "=u2"))
REFUSED_MODES = ("F", "LAB")


@pytest.mark.parametrize("mode", sorted(set(modes()) - set(REFUSED_MODES)))
def test_every_mode_of_pillow_becomes_rgb(mode: str):
    image = modes()[mode]
    found = convert(image).pixels.permute(1, 2, 0).numpy()
    if mode.startswith("I"):
        expected = np.repeat(PIXELS[..., :1], 3, axis=2)
    else:
        through = {"La": "LA", "RGBa": "RGBA"}.get(mode, mode)
        expected = np.asarray(image.convert(through).convert("RGB"))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", REFUSED_MODES)
def test_modes_without_a_fixed_range_are_refused_in_words(mode: str):
    with pytest.raises(BrokenImage, match="convert it to"):
        convert(modes()[mode])


SAVED = [
    *[("PNG", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")],
    *[("BMP", mode, {}) for mode in ("1", "L", "P", "RGB")],
    *[("TIFF", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16", "I;16B")],
    *[("TIFF", "RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "raw")],
    *[("WEBP", mode, {"lossless": True}) for mode in ("L", "RGB", "RGBA")],
    *[("GIF", mode, {}) for mode in ("L", "P")],
    *[("PPM", mode, {}) for mode in ("1", "L", "RGB", "I")],
]


@pytest.mark.parametrize(("kind", "mode", "options"), SAVED)
def test_files_of_every_lossless_format_and_mode_give_the_pixels(kind: str, mode: str, options: dict[str, Any]):
    image = modes()[mode]
    expected = convert(image).pixels.permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(decoded(encode(image, kind, **options)), expected)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_are_decoded_by_torchvision_to_the_same_bytes_as_before(mode: str, options: dict[str, Any]):
    data = encode(Image.fromarray(PIXELS).convert(mode), "JPEG", **options)
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    assert torch.equal(decode_image(data).pixels, decode_jpeg(buffer, mode=ImageReadMode.RGB))


def test_cmyk_jpeg():
    data = encode(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_the_content_says_the_format_not_the_name(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(encode(Image.fromarray(PIXELS), "BMP"))
    np.testing.assert_array_equal(FileImages().read(str(tmp_path / "a.jpg")).permute(1, 2, 0).numpy(), PIXELS)


def test_bmp_and_tiff_are_images_of_a_folder(tmp_path: Path):
    for shift, (name, kind) in enumerate((("a.bmp", "BMP"), ("b.tif", "TIFF"), ("c.TIFF", "TIFF"), ("d.pgm", "PPM"))):
        (tmp_path / name).write_bytes(encode(Image.fromarray(np.roll(PIXELS, shift)).convert("L"), kind))
    report = check(DataConfig(layout="folder", root=str(tmp_path)))
    assert (report.clean, report.splits[0].images) == (True, 4)


# 16 bits


def test_sixteen_bits_keep_the_upper_eight():
    values = np.array([[0, 255, 256, 1000, 0x7FFF, 0xFF00, 0xFFFF]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decode_image(encode(Image.fromarray(values), kind))
        assert found.pixels[:, 0].tolist() == [[0, 0, 1, 3, 127, 255, 255]] * 3
        assert found.conversions == (SIXTEEN_BITS,)


def test_sixteen_bit_colour():
    values = np.random.default_rng(1).integers(0, 2**16, (4, 3, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    found = decode_image(png(4, 3, rows, depth=16))
    np.testing.assert_array_equal(found.pixels.permute(1, 2, 0).numpy(), values >> 8)
    assert found.conversions == (SIXTEEN_BITS,)


def test_a_thermal_image_can_be_stretched():
    values = np.array([[7000, 7100, 7255]], dtype=np.uint16)
    data = encode(Image.fromarray(values), "PNG")
    assert decoded(data)[0, :, 0].tolist() == [27, 27, 28]
    assert decoded(data, stretch_16_bit=True)[0, :, 0].tolist() == [0, 100, 255]
    assert decode_image(data, Decoding(stretch_16_bit=True)).conversions == (STRETCHED,)
    flat = encode(Image.fromarray(np.full((2, 2), 7000, dtype=np.uint16)), "PNG")
    assert not decoded(flat, stretch_16_bit=True).any()


def test_thirty_two_bits_have_no_range_unless_stretched():
    data = encode(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "TIFF")
    with pytest.raises(BrokenImage, match=r"pixels from 0 to 70000, .*set data\.stretch_16_bit=true"):
        decode_image(data)
    assert decoded(data, stretch_16_bit=True)[0, :, 0].tolist() == [0, 255]


def test_a_conversion_is_said_once_in_a_process_and_counted_by_check(tmp_path: Path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encode(Image.fromarray(PIXELS[..., 0].astype(np.uint16)), "PNG"))
    images = FileImages()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for name in "abc":
            images.read(str(tmp_path / f"{name}.png"))
    assert [str(warning.message) for warning in caught] == [
        f"There are images of {SIXTEEN_BITS}; 'reid-ray data check' counts them."
    ]
    report = check(DataConfig(layout="folder", root=str(tmp_path)))
    assert report.notes == (f"3 images: {SIXTEEN_BITS}",)


def test_the_settings_reach_files_and_packed_images(tmp_path: Path):
    (tmp_path / "crops").mkdir()
    values = np.array([[7000, 7100], [7255, 7000]], dtype=np.uint16)
    (tmp_path / "crops" / "a.png").write_bytes(encode(Image.fromarray(values), "PNG"))
    from reid_ray.data.pack import pack

    settings: dict[str, Any] = {"layout": "folder", "root": str(tmp_path / "crops")}
    pack(read_dataset(DataConfig(**settings)), tmp_path / "packed")
    for config in (settings, {"layout": "packed", "root": str(tmp_path / "packed")}):
        dataset = read_dataset(DataConfig(**config, stretch_16_bit=True))
        assert dataset.images.read(dataset.table.paths[0])[0].tolist() == [[0, 100], [255, 0]]
        small = read_dataset(DataConfig(**config, max_megapixels=3e-6))
        with pytest.raises(DataError, match=r"2 × 2 pixels, more than data\.max_megapixels=3e-06"):
            small.images.read(small.table.paths[0])


# EXIF orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_orientation_is_applied_as_every_viewer_does(kind: str, options: dict[str, Any], orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(PIXELS), kind, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decoded(data), upright)
    if orientation == 6:
        assert decoded(data).shape == (10, 20, 3)
    if kind != "TIFF" and orientation > 1:
        assert decode_image(data).conversions == (UPRIGHT,)


def test_a_phone_s_portrait_is_upright():
    """A scene of 128×64 whose upper half is bright, stored lying on its side, as phones do."""
    scene = np.zeros((128, 64, 3), dtype=np.uint8)
    scene[:64] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(np.rot90(scene).copy())
    found = decoded(encode(lying, "JPEG", exif=exif, quality=95))
    assert found.shape == (128, 64, 3)
    np.testing.assert_allclose(found.astype(int), scene, atol=2)


def test_an_opened_image_is_turned_and_one_made_from_it_is_not():
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = Image.open(io.BytesIO(encode(Image.fromarray(PIXELS), "PNG", exif=exif)))
    assert convert(opened).pixels.shape == (3, 10, 20)
    turned = opened.rotate(-90, expand=True)
    assert np.array_equal(convert(turned).pixels.permute(1, 2, 0).numpy(), np.asarray(turned))


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_none(value: int):
    exif = Image.Exif()
    exif[0x0112] = value
    assert decoded(encode(Image.fromarray(PIXELS), "JPEG", exif=exif)).shape == (20, 10, 3)


def test_damaged_metadata_does_not_cost_the_picture():
    whole = encode(Image.fromarray(PIXELS), "JPEG")
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"):
        data = whole[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + whole[2:]
        np.testing.assert_array_equal(decoded(data), decoded(whole))


# Damage


def test_a_png_with_fewer_rows_than_its_header_says():
    rows = b"".join(b"\0" + bytes(64 * 3) for _ in range(5))
    with pytest.raises(BrokenImage, match="holds fewer rows than the 128 of its header"):
        decode_image(png(128, 64, rows))
    assert decoded(png(5, 64, rows)).shape == (5, 64, 3)


@pytest.mark.parametrize("interlace", [False, True])
def test_the_rows_of_every_png_are_counted_right(interlace: bool):
    """The count of bytes against a count of pixels, for all depths and small sizes, interlaced or not."""
    from reid_ray.data.headers import _ADAM7, _png_raw_bytes

    for height in (1, 2, 3, 5, 8, 9, 17):
        for width in (1, 2, 3, 4, 7, 8, 13):
            for bits in (1, 2, 4, 8, 24, 64):
                total = 0
                for y0, x0, dy, dx in _ADAM7 if interlace else [(0, 0, 1, 1)]:
                    n_columns = len(range(x0, width, dx))
                    for _ in range(y0, height, dy):
                        total += 1 + (n_columns * bits + 7) // 8 if n_columns else 0
                assert _png_raw_bytes(height, width, bits, interlaced=interlace) == total


def test_an_interlaced_png_is_read():
    """Pillow does not write them: the seven passes of a 3×3 image by hand."""
    grey = np.arange(9, dtype=np.uint8).reshape(3, 3) * 20
    from reid_ray.data.headers import _ADAM7

    passes = [grey[y0::dy, x0::dx] for y0, x0, dy, dx in _ADAM7]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    np.testing.assert_array_equal(decoded(png(3, 3, rows, colour=0, interlace=1))[..., 0], grey)
    with pytest.raises(BrokenImage, match="fewer rows"):
        decode_image(png(3, 3, rows[:-1], colour=0, interlace=1))


def test_every_changed_byte_of_a_png_is_found_or_harmless():
    data = encode(Image.fromarray(PIXELS), "PNG")
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            found = decoded(bytes(damaged))
        except BrokenImage:
            continue
        np.testing.assert_array_equal(found, PIXELS)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: png(30_000, 30_000, b"\0" + bytes(90_000)), "30000 × 30000"),
        (lambda: _with_jpeg_size(30_000, 30_000), "30000 × 30000"),
        (lambda: _with_webp_size(16_000, 16_000), "16000 × 16000"),
        (lambda: b"GIF89a" + struct.pack("<HH", 30_000, 30_000) + b"\0\0\0" + _gif_rest(), "30000 × 30000"),
        (lambda: _with_bmp_size(30_000, 30_000), "30000 × 30000"),
        (lambda: b"P6 30000 30000 255\n" + bytes(100), "30000 × 30000"),
    ],
    ids=["PNG", "JPEG", "WebP", "GIF", "BMP", "PNM"],
)
def test_a_bomb_is_refused_before_it_is_decoded(make: Callable[[], bytes], size: str):
    with pytest.raises(BrokenImage, match=f"has {size} pixels, more than data.max_megapixels=100 allows"):
        decode_image(make())


def _with_jpeg_size(height: int, width: int) -> bytes:
    data = bytearray(encode(Image.fromarray(PIXELS), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _with_webp_size(height: int, width: int) -> bytes:
    data = bytearray(encode(Image.fromarray(PIXELS), "WEBP"))
    assert data[12:16] == b"VP8 "
    data[26:30] = struct.pack("<HH", width, height)
    return bytes(data)


def _with_bmp_size(height: int, width: int) -> bytes:
    data = bytearray(encode(Image.fromarray(PIXELS), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def _gif_rest() -> bytes:
    return b"," + struct.pack("<HHHH", 0, 0, 30_000, 30_000) + b"\0\x02\x02\x4c\x01\0;"


def test_the_limit_is_a_setting():
    data = png(30, 20, b"".join(b"\0" + bytes(60) for _ in range(30)))
    assert decoded(data, max_megapixels=600e-6).shape == (30, 20, 3)
    with pytest.raises(BrokenImage, match="30 × 20 pixels"):
        decode_image(data, Decoding(max_megapixels=599e-6))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind: str):
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    with pytest.raises(BrokenImage, match="is an animation of 2 frames; keep one"):
        decode_image(encode(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_a_jpeg_header_is_found_behind_other_segments():
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encode(Image.fromarray(PIXELS), "JPEG", exif=exif, comment=b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03")
    header = read_jpeg_header(data)
    assert header is not None
    assert (header.height, header.width, header.n_components, header.common) == (20, 10, 3, True)
    assert header.exif.startswith(b"Exif\0\0")
    assert read_jpeg_header(data[:30]) is None


def test_check_names_the_png_that_used_to_end_the_process(tmp_path: Path):
    """In a process of its own: if a decoder took it along, its exit code would say so."""
    rows = b"".join(b"\0" + bytes(64 * 3) for _ in range(5))
    (tmp_path / "short.png").write_bytes(png(128, 64, rows))
    (tmp_path / "huge.png").write_bytes(png(30_000, 30_000, b"\0" + bytes(90_000)))
    (tmp_path / "good.png").write_bytes(png(5, 64, rows))
    command = [sys.executable, "-m", "reid_ray", "data", "check", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1, answer.stderr
    for line in ("short.png holds fewer rows", "huge.png has 30000 × 30000 pixels"):
        assert line in answer.stdout
    assert "2 problems" in answer.stdout
