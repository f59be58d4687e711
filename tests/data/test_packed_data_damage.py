"""Packed datasets that are damaged, or made to lead a reader astray."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from read_layouts import read

from reid_ray.config import DataConfig
from reid_ray.data import ImageTable
from reid_ray.data.check import check
from reid_ray.data.pack import pack
from reid_ray.data.packed_images import PackedImages
from reid_ray.errors import DataError

# Damage


@pytest.fixture
def packed_market(market: Path, tmp_path: Path) -> Path:
    return pack(read("market1501", market), tmp_path / "packed")


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: _cut(root / "shard-00000.arrow"),
            r"shard-00000\.arrow has \d+ bytes, but manifest\.json says",
        ),
        (lambda root: (root / "shard-00000.arrow").unlink(), r"shard-00000\.arrow is missing"),
        (lambda root: (root / "table.parquet").unlink(), r"Cannot read .*table\.parquet"),
        (lambda root: _cut(root / "table.parquet"), r"Cannot read .*table\.parquet"),
        (lambda root: (root / "manifest.json").unlink(), r"Cannot read .*manifest\.json"),
        (lambda root: (root / "manifest.json").write_text("{"), r"Cannot read .*manifest\.json"),
        (lambda root: (root / "manifest.json").write_text("[]"), "was not written by"),
        (lambda root: _edit(root / "manifest.json", format="webdataset"), "was not written by"),
        (lambda root: _edit(root / "manifest.json", version=99), "has format version 99, but 1 is read"),
        (
            lambda root: _edit(root / "manifest.json", images=3),
            r"table\.parquet has 7 rows, manifest\.json says 3",
        ),
    ],
)
def test_damage_is_named_at_the_door(packed_market: Path, damage: Callable[[Path], None], message: str):
    damage(packed_market)
    with pytest.raises(DataError, match=message):
        read("packed", packed_market)


def test_check_finds_changed_content_that_still_decodes(packed_market: Path):
    config = DataConfig(layout="packed", root=str(packed_market))
    assert check(config).clean
    table = ImageTable.read(packed_market / "table.parquet")
    order = np.arange(len(table))
    order[[0, 1]] = order[[1, 0]]
    table.take(order).write(packed_market / "table.parquet")
    (problem,) = check(config).problems
    assert "does not have the digest" in problem.detail


def test_an_orientation_is_applied_whether_files_are_kept_or_resized(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32] = 255
    (tmp_path / "crops").mkdir()
    Image.fromarray(pixels).save(tmp_path / "crops" / "a.png", exif=exif)
    source = read("folder", tmp_path / "crops")
    upright = source.images.read(source.table.paths[0])
    assert upright.shape == (3, 64, 32)
    assert (int(upright[0, 0, 0]), int(upright[0, -1, 0])) == (255, 0)
    for size in (None, (64, 32)):
        packed = read("packed", pack(source, tmp_path / f"packed-{size}", size=size))
        assert torch.equal(packed.images.read(packed.table.paths[0]), upright)


# From strangers


@pytest.mark.parametrize(
    "values",
    [
        {"shards": 5},
        {"shards": [5]},
        {"shards": [{"file": "shard-00000.arrow"}]},
        {"shards": [{"file": "../shard-00000.arrow", "bytes": 1}]},
        {"shards": [{"file": "/etc/passwd", "bytes": 1}]},
        {"shards": [{"file": None, "bytes": 1}]},
        {"shards": None},
        {"name": ["x"]},
        {"images": "many"},
        {"digest": None},
    ],
)
def test_a_manifest_with_other_entries_is_damaged(packed_market: Path, values: dict[str, Any]):
    _edit(packed_market / "manifest.json", **values)
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        read("packed", packed_market)


def test_a_manifest_without_end_of_brackets(packed_market: Path):
    (packed_market / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"Cannot read .*manifest\.json"):
        read("packed", packed_market)


@pytest.mark.parametrize("name", ["manifest.json", "table.parquet", "shard-00000.arrow"])
def test_links_do_not_lead_out_of_a_packed_dataset(packed_market: Path, tmp_path: Path, name: str):
    outside = tmp_path / "elsewhere" / name
    outside.parent.mkdir()
    shutil.move(packed_market / name, outside)
    (packed_market / name).symlink_to(outside)
    with pytest.raises(DataError, match=rf"{re.escape(name)} is a link that leads out of the packed dataset"):
        read("packed", packed_market)


def test_links_inside_and_to_a_packed_dataset_are_followed(packed_market: Path, tmp_path: Path):
    shutil.move(packed_market / "table.parquet", packed_market / "columns.parquet")
    (packed_market / "table.parquet").symlink_to("columns.parquet")
    (tmp_path / "link").symlink_to(packed_market)
    packed = read("packed", tmp_path / "link")
    assert packed.images.read(packed.table.paths[0]).shape == (3, 32, 16)


def test_a_loop_of_links_is_none_of_the_dataset(packed_market: Path):
    (packed_market / "table.parquet").unlink()
    (packed_market / "table.parquet").symlink_to("table.parquet")
    with pytest.raises(DataError, match=r"table\.parquet"):
        read("packed", packed_market)


def test_a_table_whose_text_is_not_utf8_is_refused(packed_market: Path):
    file = packed_market / "table.parquet"
    table = ImageTable.read(file)
    pa.parquet.write_table(table.arrow, file, compression="none", use_dictionary=False)
    data = file.read_bytes()
    assert data.count(b"shard-00000.arrow#3")
    file.write_bytes(data.replace(b"shard-00000.arrow#3", b"shard-00000.arrow\xff3"))
    with pytest.raises(DataError, match=r"Cannot read .*table\.parquet \(.*UTF-?8"):
        read("packed", packed_market)


def test_a_shard_with_offsets_beyond_its_bytes_is_refused_before_a_row_is_read(packed_market: Path):
    """Arrow trusts offsets: reading such a row would read memory that is not the file's, or end the process."""
    images = [PackedImages(str(packed_market)).encoded(f"shard-00000.arrow#{row}") for row in range(7)]
    offsets = np.cumsum([0, *map(len, images)]).astype("<i4")
    shard = packed_market / "shard-00000.arrow"
    data = shard.read_bytes()
    assert data.count(offsets.tobytes()) == 1
    wrong = np.array([0, 10, *range(2**30, 2**30 + 5), 2**31 - 1], "<i4")
    shard.write_bytes(data.replace(offsets.tobytes(), wrong.tobytes()))
    with pytest.raises(DataError, match=r"Cannot open the shard .*shard-00000\.arrow"):
        PackedImages(str(packed_market)).read("shard-00000.arrow#1")


@pytest.mark.parametrize(
    "column", [pa.array(["text"]), pa.array([None], pa.binary()), pa.array([1])], ids=["text", "gaps", "numbers"]
)
def test_a_shard_of_another_type_is_refused(tmp_path: Path, column: Any):
    batch = pa.record_batch([column], names=["image"])
    with pa.ipc.new_file(str(tmp_path / "shard-00000.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match="its column 'image' is not binary, or has gaps"):
        PackedImages(str(tmp_path)).read("shard-00000.arrow#0")
