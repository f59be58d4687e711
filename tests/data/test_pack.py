"""Packing must change nothing but where the bytes are, and must not leave half a dataset behind."""

from __future__ import annotations

import json
import pickle
import random
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from reid_ray.cli.data import app
from reid_ray.config import DataConfig, SyntheticConfig
from reid_ray.data import Dataset, FileImages, ImageTable, read_dataset
from reid_ray.data.check import check
from reid_ray.data.pack import encoded, pack
from reid_ray.data.packed_images import PackedImages
from reid_ray.data.readers import detect_layout
from reid_ray.errors import DataError


def read(layout: Any, root: Path, **settings: Any) -> Dataset:
    return read_dataset(DataConfig(layout=layout, root=str(root), **settings))


def assert_same_data(packed: Dataset, source: Dataset) -> None:
    assert packed.table.name == source.table.name
    assert packed.table.arrow.drop_columns("path").equals(source.table.arrow.drop_columns("path"))
    for ours, theirs in zip(packed.table.paths, source.table.paths, strict=True):
        assert torch.equal(packed.images.read(ours), source.images.read(theirs))


@dataclass(frozen=True)
class NoisyImages:
    """Images that are in no file: incompressible, about 12 kB each as PNG."""

    def read(self, path: str) -> Tensor:
        return torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(int(path)), dtype=torch.uint8)


def noisy(n: int) -> Dataset:
    table = ImageTable.from_columns(path=[str(i) for i in range(n)], camid=[i % 3 for i in range(n)], name="noise")
    return Dataset(table, NoisyImages())


# Round trips


def test_round_trip_keeps_the_files_byte_for_byte(market: Path, tmp_path: Path):
    source = read("market1501", market)
    packed = read("packed", pack(source, tmp_path / "packed"))
    assert_same_data(packed, source)
    for ours, theirs in zip(packed.table.paths, source.table.paths, strict=True):
        assert encoded(packed.images, ours) == Path(theirs).read_bytes()
    assert packed.table.paths[0] == "shard-00000.arrow#0"
    assert detect_layout(tmp_path / "packed") == "packed"


def test_round_trip_of_drawn_images(tmp_path: Path):
    world = SyntheticConfig(n_train_ids=2, n_test_ids=1, n_cameras=2, images_per_id=4)
    source = read_dataset(DataConfig(layout="synthetic", synthetic=world))
    assert_same_data(read("packed", pack(source, tmp_path / "packed")), source)


def test_shards_are_closed_when_full(tmp_path: Path):
    source = noisy(300)
    out = pack(source, tmp_path / "packed", shard_mb=1)
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["shards"]) == 4  # 300 images of 12.3 kB are 3.7 MB
    assert sum(shard["images"] for shard in manifest["shards"]) == manifest["images"] == 300
    assert all(2**20 <= shard["bytes"] < 2**20 + 40_000 for shard in manifest["shards"][:-1])
    assert manifest["splits"] == {"train": 300, "query": 0, "gallery": 0}
    assert_same_data(read("packed", out), source)


def test_packing_again_changes_nothing(market: Path, tmp_path: Path):
    source = read("market1501", market)
    once = pack(source, tmp_path / "once")
    twice = pack(read("packed", once), tmp_path / "twice", threads=1)
    for file in sorted(once.iterdir()):
        assert (twice / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_digest_sees_pixels_identities_cameras_and_splits(tmp_path: Path):
    n = 4
    base: dict[str, Any] = {
        "path": [str(i) for i in range(n)],
        "pid": [1] * n,
        "camid": [0] * n,
        "split": ["train"] * n,
    }
    changes: list[dict[str, Any]] = [
        {},
        {"path": ["0", "1", "2", "9"]},
        {"pid": [1, 1, 1, 2]},
        {"camid": [0, 0, 0, 1]},
        {"split": ["train", "train", "query", "gallery"]},
        {"path": ["1", "0", "2", "3"]},
    ]
    digests = set()
    for i, change in enumerate(changes):
        out = pack(Dataset(ImageTable.from_columns(**{**base, **change}), NoisyImages()), tmp_path / str(i))
        digests.add(json.loads((out / "manifest.json").read_text())["digest"])
    assert len(digests) == len(changes)


def test_size_resizes_every_image(tmp_path: Path, write_image: Callable[..., Path]):
    for i, height in enumerate((8, 64, 32)):
        write_image(tmp_path / "crops" / f"{i}.jpg", height=height)
    flat = tmp_path / "crops" / "flat.png"
    from torchvision.io import write_png

    write_png(torch.full((3, 20, 10), 77, dtype=torch.uint8), str(flat))
    packed = read("packed", pack(read("folder", tmp_path / "crops"), tmp_path / "packed", size=(48, 24)))
    images = [packed.images.read(path) for path in packed.table.paths]
    assert {tuple(image.shape) for image in images} == {(3, 48, 24)}
    assert (images[-1] == 77).all()


def test_optional_columns_travel_with_the_table(tmp_path: Path):
    table = ImageTable.from_columns(path=["0", "1"], extra={"tracklet": [4, 5], "modality": ["visible", "infrared"]})
    packed = read("packed", pack(Dataset(table, NoisyImages()), tmp_path / "packed"))
    assert packed.table.arrow["tracklet"].to_pylist() == [4, 5]
    assert packed.table.arrow["modality"].to_pylist() == ["visible", "infrared"]


def test_use_cameras_false_strips_them_and_the_pack_is_still_clean(market: Path, tmp_path: Path):
    out = pack(read("market1501", market), tmp_path / "packed")
    assert not read("packed", out, use_cameras=False).table.has_cameras
    assert check(DataConfig(layout="packed", root=str(out), use_cameras=False)).clean


# Reading


def test_reader_pickles_small_and_reads_in_the_other_process(tmp_path: Path):
    source = noisy(5)
    packed = read("packed", pack(source, tmp_path / "packed"))
    before = packed.images.read(packed.table.paths[3])
    pickled = pickle.dumps(packed.images)
    assert len(pickled) < 500
    copy = pickle.loads(pickled)
    assert copy == packed.images
    assert torch.equal(copy.read(packed.table.paths[3]), before)


def test_concurrent_reads_in_any_order(tmp_path: Path):
    source = noisy(200)
    packed = read("packed", pack(source, tmp_path / "packed", shard_mb=1))
    rows = list(range(200)) * 3
    random.Random(0).shuffle(rows)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda row: packed.images.read(packed.table.paths[row]), rows))
    for row, image in zip(rows, images, strict=True):
        assert torch.equal(image, source.images.read(str(row)))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "is no image of"),
        ("a.jpg", r"'a\.jpg' is no image of .*keys look like shard-00000\.arrow#17"),
        ("shard-00000.arrow", "is no image of"),
        ("shard-00000.arrow#-1", "is no image of"),
        ("../shard-00000.arrow#0", "is no image of"),
        ("shard-00000.arrow#3", r"shard-00000\.arrow#3: the shard has only 3 images"),
        ("shard-00009.arrow#0", r"Cannot open the shard .*shard-00009\.arrow"),
    ],
)
def test_bad_keys(tmp_path: Path, key: str, message: str):
    images = PackedImages(str(pack(noisy(3), tmp_path / "packed")))
    with pytest.raises(DataError, match=message):
        images.read(key)


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


def test_a_shard_with_offsets_beyond_its_bytes_is_refused_before_a_row_is_read(tmp_path: Path):
    """Arrow trusts offsets: reading such a row would read memory that is not the file's, or end the process."""
    root = pack(noisy(3), tmp_path / "packed")
    images = [PackedImages(str(root)).encoded(f"shard-00000.arrow#{row}") for row in range(3)]
    offsets = np.cumsum([0, *map(len, images)]).astype("<i4")
    shard = root / "shard-00000.arrow"
    data = shard.read_bytes()
    assert data.count(offsets.tobytes()) == 1
    shard.write_bytes(data.replace(offsets.tobytes(), np.array([0, 10, 2**30, 2**31 - 1], "<i4").tobytes()))
    with pytest.raises(DataError, match=r"Cannot open the shard .*shard-00000\.arrow"):
        PackedImages(str(root)).read("shard-00000.arrow#1")


@pytest.mark.parametrize(
    "column", [pa.array(["text"]), pa.array([None], pa.binary()), pa.array([1])], ids=["text", "gaps", "numbers"]
)
def test_a_shard_of_another_type_is_refused(tmp_path: Path, column: Any):
    batch = pa.record_batch([column], names=["image"])
    with pa.ipc.new_file(str(tmp_path / "shard-00000.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match="its column 'image' is not binary, or has gaps"):
        PackedImages(str(tmp_path)).read("shard-00000.arrow#0")


# Bad images left out


def test_skip_bad_leaves_bad_images_out_and_lists_them(market: Path, tmp_path: Path):
    bad = market / "bounding_box_train" / "0002_c1s1_000451_03.jpg"
    bad.write_bytes(bad.read_bytes()[:-30])
    gone = market / "query" / "0003_c6s1_000111_01.jpg"
    gone.symlink_to("nowhere.jpg")
    out = tmp_path / "packed"
    result = CliRunner().invoke(app, ["pack", str(market), str(out), "--skip-bad"])
    assert result.exit_code == 0, result.output
    assert f"left out: {bad} ends before the image does" in result.stdout
    assert f"left out: {gone} cannot be read" in result.stdout
    assert "6 images packed" in result.stdout
    source, packed = read("market1501", market), read("packed", out)
    kept = source.table.where(np.array([path not in (str(bad), str(gone)) for path in source.table.paths]))
    assert_same_data(packed, Dataset(kept, source.images))
    assert CliRunner().invoke(app, ["check", str(out)]).exit_code == 0


def test_without_skip_bad_the_message_names_it(market: Path, tmp_path: Path):
    bad = market / "query" / "0003_c6s1_000111_00.jpg"
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"0003_c6s1_000111_00\.jpg is empty .*--skip-bad leaves them out"):
        pack(read("market1501", market), tmp_path / "packed")


def test_nothing_is_left_where_all_images_are_bad(tmp_path: Path):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "a.jpg").write_bytes(b"x")
    result = CliRunner().invoke(app, ["pack", str(tmp_path / "crops"), str(tmp_path / "out"), "--skip-bad"])
    assert "there is nothing to pack" in str(result.exception)
    assert leftovers(tmp_path) == ["crops"]


# Nothing half-written


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_unreadable_image_stops_packing_and_leaves_nothing(market: Path, tmp_path: Path):
    bad = market / "query" / "0003_c6s1_000111_00.jpg"
    bad.write_bytes(bad.read_bytes()[:-30])
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"Cannot pack: .*0003_c6s1_000111_00\.jpg ends before the image does"):
        pack(read("market1501", market), tmp_path / "out" / "packed")
    assert leftovers(tmp_path / "out") == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_pack_leaves_nothing(tmp_path: Path, interruption: type[BaseException]):
    def stop(done: int, total: int) -> None:
        assert any(".partial-" in path for path in leftovers(tmp_path))  # writing has begun, under another name
        assert not (tmp_path / "packed").exists()
        raise interruption

    with pytest.raises(interruption):
        pack(noisy(10), tmp_path / "packed", progress=stop)
    assert leftovers(tmp_path) == []


def test_a_folder_in_use_is_not_touched(tmp_path: Path):
    out = tmp_path / "packed"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="exists and is not an empty folder"):
        pack(noisy(2), out)
    assert leftovers(tmp_path) == ["packed"]
    assert leftovers(out) == ["thesis.txt"]


def test_a_folder_that_fills_while_packing_is_not_touched(tmp_path: Path):
    out = tmp_path / "packed"

    def rival(done: int, total: int) -> None:
        out.mkdir()
        (out / "theirs").touch()

    with pytest.raises(DataError, match="not an empty folder"):
        pack(noisy(2), out, progress=rival)
    assert leftovers(tmp_path) == ["packed"]
    assert leftovers(out) == ["theirs"]


def test_an_empty_folder_is_used(tmp_path: Path):
    (tmp_path / "packed").mkdir()
    assert len(read("packed", pack(noisy(2), tmp_path / "packed")).table) == 2


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        (Dataset(ImageTable.from_columns(path=[]), FileImages()), {}, "there is nothing to pack"),
        (noisy(1), {"shard_mb": 0}, "A shard of 0 MB"),
    ],
)
def test_mistakes(tmp_path: Path, dataset: Dataset, settings: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        pack(dataset, tmp_path / "packed", **settings)
    assert leftovers(tmp_path) == []


# The command


def test_command_packs_and_check_finds_the_pack_clean(market: Path, tmp_path: Path):
    out = tmp_path / "packed"
    result = CliRunner().invoke(app, ["pack", str(market), str(out), "--size", "24", "12", "--shard-mb", "1"])
    assert result.exit_code == 0, result.output
    assert "7 images packed" in result.stdout
    shutil.rmtree(market)
    packed = read("packed", out)
    assert packed.images.read(packed.table.paths[0]).shape == (3, 24, 12)
    assert CliRunner().invoke(app, ["check", str(out)]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "There is no file or folder nowhere"),
        ([".", "out"], "The train split is empty"),
        ([".", "out", "--size", "0", "4"], "--size 0 4"),
    ],
)
def test_a_mistake_of_pack_propagates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["pack", *arguments])
    assert result.exception is not None
    assert message in str(result.exception)
    assert leftovers(tmp_path) == []
