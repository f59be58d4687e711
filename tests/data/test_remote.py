"""Data on an object store is the same data."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from read_layouts import read
from typer.testing import CliRunner

from reid_ray.cli.data import app
from reid_ray.data.images import Dataset, FileImages
from reid_ray.data.pack import pack
from reid_ray.data.readers import detect_layout
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.io.paths import as_path


def upload(folder, remote):
    """Copy a folder to a store."""
    remote = as_path(remote)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            (remote / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
    return remote


def assert_same(remote, local, folders):
    """Rows and images are the same, and paths in the same order below each folder."""
    assert remote.table.name == local.table.name
    assert remote.table.arrow.drop_columns("path").equals(local.table.arrow.drop_columns("path"))
    below = [
        [path.removeprefix(f"{folder}/") for path in dataset.table.paths]
        for dataset, folder in zip((remote, local), folders, strict=True)
    ]
    assert below[0] == below[1]
    for there, here in zip(remote.table.paths, local.table.paths, strict=True):
        assert torch.equal(remote.images.read(there), local.images.read(here))


def test_folders_of_every_layout(market, make_msmt17, write_image, tmp_path, bucket):
    crops = tmp_path / "crops"
    for name in ("train/b/2.jpg", "train/a/1.png", "query/a/7_3.jpg", "gallery/b/7_4.jpg", "train/a/notes.txt"):
        write_image(crops / name) if not name.endswith("txt") else (crops / name).write_text("no image")
    named = {"camera_level": 0, "pid_regex": r"(\d+)_"}
    for layout, folder, settings in (
        ("market1501", market, {}),
        ("msmt17", make_msmt17(), {}),
        ("folder", crops, named),
    ):
        remote = upload(folder, f"{bucket}/{folder.name}")
        assert detect_layout(remote) == detect_layout(folder) == layout
        assert_same(read(layout, remote, **settings), read(layout, folder, **settings), (remote, folder))


@pytest.mark.parametrize("layout", ["csv", "parquet"])
def test_lists(layout, write_image, tmp_path, bucket):
    folder = tmp_path / "list"
    columns = {"path": ["crops/a.jpg", "crops/b.png"], "camid": ["gate", "hall"]}
    for name in columns["path"]:
        write_image(folder / name)
    file = folder / f"list.{layout}"
    if layout == "csv":
        file.write_text("path,camid\n" + "".join(f"{a},{b}\n" for a, b in zip(*columns.values(), strict=True)))
    else:
        pq.write_table(pa.table(columns), file)
    remote = upload(folder, f"{bucket}/list")
    assert detect_layout(remote / file.name) == layout
    assert_same(read(layout, remote / file.name), read(layout, file), (remote, folder))
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text(
        "path,camid\n" + "".join(f"{remote}/{a},{b}\n" for a, b in zip(*columns.values(), strict=True))
    )
    assert_same(read("csv", elsewhere), read("csv", elsewhere), (remote, remote))
    assert read("csv", elsewhere).table.paths == [f"{remote}/crops/a.jpg", f"{remote}/crops/b.png"]
    (remote / "crops" / "b.png").unlink()
    for broken in (elsewhere, remote / file.name):
        with pytest.raises(DataError, match=rf"{remote}/crops/b\.png is in .*but not on disk"):
            read("csv" if broken == elsewhere else layout, broken)


def test_packed_data(market, tmp_path, bucket):
    """Packed to a store by the command, or copied there; read by one that was copied to a disk."""
    source, remote = read("market1501", market), as_path(f"{bucket}/packed")
    result = CliRunner().invoke(app, ["pack", str(market), str(remote)])
    assert result.exit_code == 0, result.output
    assert f"data.root={remote}" in result.output
    local = pack(source, tmp_path / "packed")
    for file in local.iterdir():
        assert (remote / file.name).read_bytes() == file.read_bytes()
    assert detect_layout(remote) == "packed"
    assert_same(read("packed", remote), read("packed", local), (remote, local))
    checked = CliRunner().invoke(app, ["check", str(remote), "--json"])
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["clean"]
    with pytest.raises(DataError, match="exists and is not an empty folder"):
        pack(source, remote)
    (remote / "shard-00000.arrow").unlink()
    with pytest.raises(DataError, match="is missing"):
        read("packed", remote)


def test_a_failed_packing_leaves_nothing_behind(write_image, tmp_path, bucket):
    good, bad = write_image(tmp_path / "good.png"), tmp_path / "bad.png"
    bad.write_bytes(good.read_bytes()[:50])
    table = ImageTable.from_columns(path=[str(good)] * 300 + [str(bad)])
    with pytest.raises(DataError, match="Cannot pack"):
        pack(Dataset(table, FileImages()), as_path(f"{bucket}/packed"))
    assert as_path(f"{bucket}/packed").files() == []


def test_what_is_not_there_is_a_sentence(bucket):
    for layout, words in (("packed", "There is no folder"), ("folder", "no folder"), ("csv", "There is no file")):
        with pytest.raises(DataError, match=words):
            read(layout, f"{bucket}/none")
    with pytest.raises(DataError, match="Cannot read the image"):
        FileImages().read(f"{bucket}/none.jpg")
    with pytest.raises(DataError, match="no file or folder"):
        detect_layout(as_path(f"{bucket}/none"))
