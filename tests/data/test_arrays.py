"""Whatever a program holds gives the pixels that a file of the same picture gives."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reid_ray.data.arrays import each_image, to_pixels
from reid_ray.data.decoding import Decoding
from reid_ray.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
EXPECTED = torch.from_numpy(PIXELS).permute(2, 0, 1)
GREY = PIXELS[..., 0]
GREY_EXPECTED = EXPECTED[:1].repeat(3, 1, 1)


def encoded(kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


def with_alpha(last: int = 7) -> np.ndarray:
    return np.concatenate([PIXELS, np.full((6, 4, 1), last, np.uint8)], axis=2)


COLOUR: list[Any] = [
    PIXELS,
    with_alpha(),
    np.asfortranarray(PIXELS),
    torch.from_numpy(PIXELS).permute(2, 0, 1),
    torch.from_numpy(with_alpha()).permute(2, 0, 1),
    Image.fromarray(PIXELS),
    Image.fromarray(with_alpha()),
    encoded(),
    bytearray(encoded()),
    memoryview(encoded()),
    encoded("BMP"),
]


@pytest.mark.parametrize("image", COLOUR, ids=lambda image: f"{type(image).__name__}")
def test_colour_images_of_every_kind(image: Any):
    pixels = to_pixels(image)
    assert torch.equal(pixels, EXPECTED)
    assert pixels.is_contiguous()


@pytest.mark.parametrize(
    "image",
    [GREY, GREY[..., None], torch.from_numpy(GREY), torch.from_numpy(GREY)[None], Image.fromarray(GREY)],
    ids=lambda image: f"{type(image).__name__}",
)
def test_grey_images_of_every_kind(image: Any):
    assert torch.equal(to_pixels(image), GREY_EXPECTED)


def test_files(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded())
    assert torch.equal(to_pixels(tmp_path / "a.png"), EXPECTED)
    assert torch.equal(to_pixels(str(tmp_path / "a.png")), EXPECTED)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "LA", "YCbCr", "HSV"])
def test_a_pillow_image_gives_what_its_file_gives(mode: str, tmp_path: Path):
    image = Image.fromarray(PIXELS).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    if mode == "HSV":
        assert np.abs(to_pixels(image).numpy().astype(int) - EXPECTED.numpy()).max() < 12  # HSV of 8 bits rounds
        return
    image.save(tmp_path / "a", kind)
    assert torch.equal(to_pixels(image), to_pixels(tmp_path / "a"))


def test_a_pillow_image_of_a_phone_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(exif=exif)
    assert to_pixels(data).shape == (3, 4, 6)
    assert torch.equal(to_pixels(Image.open(io.BytesIO(data))), to_pixels(data))


def test_sixteen_bits_as_files_of_sixteen_bits():
    values = np.array([[0, 256, 0xFFFF]], dtype=np.uint16)
    assert to_pixels(values)[0].tolist() == [[0, 1, 255]]
    assert to_pixels(torch.from_numpy(values))[0].tolist() == [[0, 1, 255]]
    assert to_pixels(values, decoding=Decoding(stretch_16_bit=True))[0].tolist() == [[0, 1, 255]]
    assert to_pixels(values[..., :2], decoding=Decoding(stretch_16_bit=True))[0].tolist() == [[0, 255]]


# Colour order


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels_first", [False, True])
def test_bgr_is_turned_round(alpha: bool, channels_first: bool):
    bgr = with_alpha()[..., [2, 1, 0, 3]] if alpha else PIXELS[..., ::-1]
    image = torch.from_numpy(bgr.copy()).permute(2, 0, 1) if channels_first else bgr
    assert torch.equal(to_pixels(image, channels="bgr"), EXPECTED)
    assert not torch.equal(to_pixels(image), EXPECTED)


def test_what_knows_its_order_is_not_turned(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded())
    for image in (encoded(), Image.fromarray(PIXELS), tmp_path / "a.png"):
        assert torch.equal(to_pixels(image, channels="bgr"), EXPECTED)
    assert torch.equal(to_pixels(GREY, channels="bgr"), GREY_EXPECTED)


def test_an_order_that_does_not_exist():
    with pytest.raises(DataError, match="channels='BGR': use 'rgb' or 'bgr'"):
        to_pixels(PIXELS, channels="BGR")  # type: ignore[arg-type]


def test_the_result_is_a_copy():
    image = PIXELS.copy()
    pixels = to_pixels(image)
    image[:] = 0
    assert torch.equal(pixels, EXPECTED)
    tensor = EXPECTED.clone()
    pixels = to_pixels(tensor)
    tensor.zero_()
    assert torch.equal(pixels, EXPECTED)


# One image, many images


@pytest.mark.parametrize(
    ("images", "n"),
    [
        ("a.jpg", 1),
        (Path("a.jpg"), 1),
        (b"data", 1),
        (Image.fromarray(PIXELS), 1),
        (PIXELS, 1),
        (GREY, 1),
        (EXPECTED, 1),
        (PIXELS[None], 1),
        (np.stack([PIXELS] * 3), 3),
        (torch.stack([EXPECTED] * 3), 3),
        ([], 0),
        (["a.jpg", PIXELS], 2),
        (("a.jpg", "b.jpg"), 2),
        ((name for name in "ab"), 2),
        (np.empty((0, 6, 4, 3), np.uint8), 0),
    ],
)
def test_what_is_one_image_and_what_is_many(images: Any, n: int):
    assert len(list(each_image(images))) == n


@pytest.mark.parametrize("images", [3, None, {"a.jpg": 1}, object()])
def test_what_is_no_image_at_all(images: Any):
    with pytest.raises(DataError, match="is neither an image nor a list of images; give paths"):
        each_image(images)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.empty((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\] has no pixels"),
        (np.empty((6, 0, 3), np.uint8), "has no pixels"),
        (np.empty((0, 0), np.uint8), "has no pixels"),
        (torch.empty((3, 0, 4), dtype=torch.uint8), "has no pixels"),
        (PIXELS / 255, r"float64 \[6, 4, 3\] has no standard range of pixel values; give 0 … 255 as uint8"),
        (PIXELS.astype(int), "give 0 … 255 as uint8"),
        (GREY > 3, "give 0 … 255 as uint8"),
        (EXPECTED.float(), "give 0 … 255 as uint8"),
        (np.zeros((6, 4, 2), np.uint8), r"uint8 \[6, 4, 2\] is not an image; give \[h, w\] or \[h, w, c\] with 1, 3"),
        (np.zeros((3, 60, 40), np.uint8), r"is not an image; give \[h, w\] or \[h, w, c\]"),
        (torch.zeros((60, 40, 3), dtype=torch.uint8), r"is not an image; give \[h, w\] or \[c, h, w\]"),
        (np.zeros(5, np.uint8), "is not an image"),
        (np.array(["a"], dtype=object), "has no standard range .*give paths"),
        (None, "has no standard range .*give paths"),
        ([[1, 2], [3]], "a list, as an array .*give paths"),
        (b"", "it is empty"),
        (b"text", "it cannot be decoded"),
        (Image.new("F", (2, 2)), "has floating point pixels"),
        (Image.new("RGB", (0, 5)), "it has no pixels"),
        ("nowhere.jpg", "Cannot read the image nowhere.jpg"),
        ("a\0b", "Cannot read the image"),
    ],
)
def test_one_sentence_for_everything_else(image: Any, message: str):
    with pytest.raises(DataError, match=message):
        to_pixels(image, name="image 3")
