"""Parquet files that hold their images, as `datasets` writes them, and image folders with its `metadata.csv`."""

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.io import encode_png

from reid_ray.config import DataConfig
from reid_ray.data.embedded_images import EmbeddedImages, key_of
from reid_ray.data.pack import pack
from reid_ray.data.readers import read_dataset
from reid_ray.errors import DataError

PIXELS = [torch.full((3, 8, 4), 20 * i, dtype=torch.uint8) for i in range(7)]


def encoded(pixels):
    return encode_png(pixels).numpy().tobytes()


@pytest.fixture
def file(tmp_path):
    """Seven images in row groups of two; the last one is in a file next to it."""
    images = [{"bytes": encoded(pixels), "path": f"{i}.png"} for i, pixels in enumerate(PIXELS[:-1])]
    images.append({"bytes": None, "path": "beside/6.png"})
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "6.png").write_bytes(encoded(PIXELS[-1]))
    out = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(
        pa.table({"image": images, "pid": [3, 3, 5, 5, -1, 9, 9], "camid": [1, 4] * 3 + [4]}), out, row_group_size=2
    )
    return out


def read(file):
    return read_dataset(DataConfig(layout="parquet", root=str(file)))


def test_images_of_any_row_in_any_order(file):
    dataset = read(file)
    assert dataset.table.paths == [key_of(row) for row in range(7)]
    assert dataset.table.pids.tolist() == [3, 3, 5, 5, -1, 9, 9]
    assert dataset.table.camids.tolist() == [0, 1, 0, 1, 0, 1, 1]
    for images in (dataset.images, pickle.loads(pickle.dumps(dataset.images))):
        for row in (6, 0, 3, 3, 5, 1, 2, 4):
            assert torch.equal(images.read(key_of(row)), PIXELS[row])


def test_packed_images_are_the_same(file, tmp_path):
    dataset = read(file)
    pack(dataset, tmp_path / "packed")
    packed = read_dataset(DataConfig(layout="packed", root=str(tmp_path / "packed")))
    for row, path in enumerate(packed.table.paths):
        assert torch.equal(packed.images.read(path), PIXELS[row])


def test_images_and_names_that_are_not_there(file, tmp_path):
    images = EmbeddedImages(str(file))
    for path, message in (("0.png", "is not an image in"), (key_of(7), "has only 7 rows")):
        with pytest.raises(DataError, match=message):
            images.read(path)
    out = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"image": [{"bytes": b"text", "path": None}, {"bytes": None, "path": None}]}), out)
    with pytest.raises(DataError, match=r"Cannot decode the image .*empty\.parquet#row-000000000"):
        read(out).images.read(key_of(0))
    with pytest.raises(DataError, match="neither an image nor the name of a file"):
        read(out).images.read(key_of(1))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="Cannot read"):
        EmbeddedImages(str(file)).read(key_of(0))


def test_a_column_of_names_is_not_one_of_images(tmp_path):
    pq.write_table(pa.table({"image": ["a.png"]}), tmp_path / "names.parquet")
    with pytest.raises(DataError, match="rename the column 'image' to 'path'"):
        read(tmp_path / "names.parquet")


def test_the_list_of_an_image_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(PIXELS[1]))
    (tmp_path / "metadata.csv").write_text("file_name,pid,time\na.png,4,2026-05-01T18:00:00+02:00\n")
    dataset = read_dataset(DataConfig(layout="csv", root=str(tmp_path / "metadata.csv")))
    assert torch.equal(dataset.images.read(dataset.table.paths[0]), PIXELS[1])
    assert str(dataset.table.arrow["time"][0].as_py()) == "2026-05-01 16:00:00"
    (tmp_path / "metadata.csv").write_text("file_name,time\na.png,yesterday\n")
    with pytest.raises(DataError, match="'yesterday' is not a time"):
        read_dataset(DataConfig(layout="csv", root=str(tmp_path / "metadata.csv")))
