"""From a path to pixels: every format gives uint8 RGB, every bad file gives one sentence with its name."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid_ray.data.images import Dataset, FileImages, decode
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 10, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_give_the_pixels(kind: str, options: dict[str, object]):
    image = decode(encode(Image.fromarray(PIXELS), kind, **options), "x")
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), PIXELS)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode: str):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = decode(encode(Image.fromarray(PIXELS).convert(mode), kind), "x")
    assert image.shape == (3, 20, 10)
    assert image.dtype == torch.uint8


def test_grey_is_the_same_in_all_channels():
    image = decode(encode(Image.fromarray(PIXELS).convert("L"), "PNG"), "x")
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


@pytest.mark.parametrize("quality", [60, 95])
def test_jpeg_agrees_with_another_decoder(quality: int):
    smooth = np.linspace(0, 255, 20 * 10 * 3).reshape(20, 10, 3).astype(np.uint8)
    data = encode(Image.fromarray(smooth), "JPEG", quality=quality)
    ours = decode(data, "x").permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"Cannot decode the image odd name\.jpg: it is empty"),
        (b"text", r"Cannot decode the image odd name\.jpg"),
        (encode(Image.fromarray(PIXELS), "JPEG")[:-40], r"Cannot decode the image odd name\.jpg"),
        (b"\0\0\0\x20ftypavif", r"Cannot decode the image odd name\.jpg"),
    ],
)
def test_bad_bytes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str):
    monkeypatch.chdir(tmp_path)
    Path("odd name.jpg").write_bytes(data)
    with pytest.raises(DataError, match=message):
        FileImages().read("odd name.jpg")


@pytest.mark.parametrize("name", ["missing.jpg", "."])
def test_what_is_no_file_is_named(tmp_path: Path, name: str):
    with pytest.raises(DataError, match="Cannot read the image"):
        FileImages().read(str(tmp_path / name))


def test_the_reader_travels():
    assert pickle.loads(pickle.dumps(FileImages())) == FileImages()


def test_a_dataset_gives_its_splits():
    table = ImageTable.from_columns(path=["a", "b", "c"], split=["train", "query", "gallery"])
    dataset = Dataset(table, FileImages())
    assert (dataset.train.paths, dataset.query.paths, dataset.gallery.paths) == (["a"], ["b"], ["c"])
