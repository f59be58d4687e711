"""Packing on Ray: byte for byte the folder of one process, also after an interruption; one-line errors."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from torchvision.io import write_jpeg
from typer.testing import CliRunner

from reid_ray.cli import app
from reid_ray.config import DataConfig
from reid_ray.data.pack import pack
from reid_ray.data.packed_images import read_manifest
from reid_ray.data.readers import read_dataset
from reid_ray.errors import ConfigError, DataError
from reid_ray.runtime import packing
from reid_ray.runtime.packing import _batches, cut, pack_on_ray, read_paths

pytestmark = pytest.mark.ray

N_IMAGES = 400
"""More than one record batch, and several shards of a megabyte."""


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """A folder of noise images that compress to different sizes, more than 2 MB in total."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    for i in range(N_IMAGES):
        image = torch.from_numpy(rng.integers(0, 256, (3, 64 + i % 7, 64), dtype=np.uint8))
        write_jpeg(image, str(folder / f"{i:04d}.jpg"), quality=95)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def dataset(crops):
    return read_dataset(DataConfig(layout="folder", root=str(crops)))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("size", [None, (24, 12)])
def test_folder_equals_that_of_one_process_byte_for_byte(local_ray, dataset, tmp_path, size):
    pack(dataset, tmp_path / "one", shard_mb=1, size=size)
    seen = []
    found = pack_on_ray(
        dataset, tmp_path / "many", shard_mb=1, size=size, n_packers=2, progress=lambda *n: seen.append(n)
    )
    assert found == tmp_path / "many"
    assert contents(tmp_path / "one") == contents(found)
    assert len(read_manifest(found)["shards"]) == (3 if size is None else 1)
    assert seen[-1] == (N_IMAGES, N_IMAGES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "one"]


def test_existing_shards_are_kept(local_ray, dataset, crops, tmp_path, monkeypatch):
    pack(dataset, tmp_path / "one", shard_mb=1)
    broken = crops / "0399.jpg"  # in the last shard
    data = broken.read_bytes()
    broken.write_bytes(data[:-900] + bytes(900))
    try:
        with pytest.raises(DataError, match=r"^Cannot pack: .*0399\.jpg .*reid-ray data check"):
            pack_on_ray(dataset, tmp_path / "many", shard_mb=1)
    finally:
        broken.write_bytes(data)
    folder = tmp_path / ".many.packing"
    assert not (tmp_path / "many").exists()
    times = {file.name: file.stat().st_mtime_ns for file in folder.glob("shard-*.arrow")}
    assert sorted(times) == ["shard-00000.arrow", "shard-00001.arrow"]
    with pytest.raises(DataError, match="of other images or settings; remove it"):
        pack_on_ray(dataset, tmp_path / "many", shard_mb=2)
    monkeypatch.setattr(packing, "measure", None)  # what is known is not asked for again
    seen = []
    found = pack_on_ray(dataset, tmp_path / "many", shard_mb=1, progress=lambda *n: seen.append(n))
    assert len(seen) == 1
    assert contents(tmp_path / "one") == contents(found)
    assert {name: (found / name).stat().st_mtime_ns for name in times} == times
    with pytest.raises(DataError, match="exists and is not an empty folder"):
        pack_on_ray(dataset, tmp_path / "many")


def test_command_line(local_ray, crops, tmp_path):
    result = CliRunner().invoke(app, ["data", "pack", str(crops), str(tmp_path / "out"), "--packers", "2"])
    assert result.exit_code == 0, result.output
    assert f"{N_IMAGES} images packed" in result.stdout
    alone = CliRunner().invoke(app, ["data", "pack", str(crops), str(tmp_path / "other"), "--address", "auto"])
    assert isinstance(alone.exception, ConfigError)


def test_missing_image_is_refused(local_ray, dataset, crops, tmp_path):
    gone = crops / "0007.jpg"
    data = gone.read_bytes()
    gone.unlink()
    try:
        with pytest.raises(DataError, match=r"Cannot read the image .*0007\.jpg: No such file"):
            pack_on_ray(dataset, tmp_path / "many")
    finally:
        gone.write_bytes(data)
    with pytest.raises(DataError, match="there is nothing to pack"):
        pack_on_ray(type(dataset)(dataset.table.split("query"), dataset.images), tmp_path / "none")


def test_shards_end_where_those_of_one_process_do():
    """The oracle adds images one by one and closes a full shard."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(1, 10, rng.integers(1, 40)).tolist()
        limit = int(rng.integers(1, 30))
        shards, held = [[]], 0
        for size in sizes:
            if held >= limit:
                shards.append([])
                held = 0
            shards[-1].append(size)
            held += size
        starts = list(cut(sizes, limit))
        assert [sizes[a:b] for a, b in pairwise(starts)] == shards


def test_record_batches_end_where_those_of_one_process_do():
    assert list(_batches(range(0, 600))) == [(0, 256), (256, 512), (512, 600)]
    assert list(_batches(range(100, 300))) == [(100, 256), (256, 300)]
    assert list(_batches(range(256, 512))) == [(256, 512)]


def test_rows_are_read_across_row_groups(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "ROW_GROUP", 7)
    packing._begin(tmp_path, dataset, {})
    for rows in (range(0, 1), range(5, 9), range(6, 29), range(7, 14), range(390, 400)):
        assert read_paths(tmp_path, rows) == dataset.table.paths[rows.start : rows.stop]
    (tmp_path / packing.ROWS).unlink()
    with pytest.raises(DataError, match="every node sees"):
        read_paths(tmp_path, range(0, 1))
