"""Packing must change nothing but where the bytes are, and must not leave half a dataset behind."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from read_layouts import read
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
        ("", "is not an image of"),
        ("a.jpg", r"'a\.jpg' is not an image of .*keys look like shard-00000\.arrow#17"),
        ("shard-00000.arrow", "is not an image of"),
        ("shard-00000.arrow#-1", "is not an image of"),
        ("../shard-00000.arrow#0", "is not an image of"),
        ("shard-00000.arrow#3", r"shard-00000\.arrow#3: the shard has only 3 images"),
        ("shard-00009.arrow#0", r"Cannot open the shard .*shard-00009\.arrow"),
    ],
)
def test_bad_keys(tmp_path: Path, key: str, message: str):
    images = PackedImages(str(pack(noisy(3), tmp_path / "packed")))
    with pytest.raises(DataError, match=message):
        images.read(key)


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
