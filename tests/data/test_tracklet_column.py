"""Tracklets of Market-1501 from its file names, and of folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from reid_ray.config import DataConfig
from reid_ray.data import ImageTable, read_dataset
from reid_ray.data.readers.tracklet_column import natural_key, with_tracklets
from reid_ray.data.tracklets import number_tracklets, tracklet_table


def rows(table: ImageTable) -> list[tuple[str, str, int]]:
    """(split, file name, tracklet) of each row."""
    columns = table.arrow.to_pydict()
    names = [Path(path).name for path in columns["path"]]
    return list(zip(columns["split"], names, columns["tracklet"], strict=True))


def test_market1501(tmp_path: Path, write_image):
    for name in (
        "0002_c1s1_000451_03",
        "0002_c1s1_000401_01",
        "0002_c1s1_000451_01",
        "0002_c1s2_000400_01",  # another sequence
        "0002_c2s1_000400_01",  # another camera
        "0007_c1s1_000402_01",  # another person
        "0002_c1s1_1000000_00",  # a frame of seven digits
    ):
        write_image(tmp_path / "bounding_box_train" / f"{name}.jpg")
    write_image(tmp_path / "query" / "0003_c1s1_000100_00.jpg")
    for name in ("0003_c1s1_000200_00", "0003_c1s1_000150_00", "0000_c1s1_000100_00", "0000_c1s1_000100_01"):
        write_image(tmp_path / "bounding_box_test" / f"{name}.jpg")
    config = DataConfig(layout="market1501", root=str(tmp_path), tracklets=True)
    table = read_dataset(config).table
    assert rows(table) == [
        ("train", "0002_c1s1_000401_01.jpg", 0),
        ("train", "0002_c1s1_000451_01.jpg", 0),
        ("train", "0002_c1s1_000451_03.jpg", 0),
        ("train", "0002_c1s1_1000000_00.jpg", 0),
        ("train", "0002_c1s2_000400_01.jpg", 1),
        ("train", "0002_c2s1_000400_01.jpg", 2),
        ("train", "0007_c1s1_000402_01.jpg", 3),
        ("query", "0003_c1s1_000100_00.jpg", 4),
        ("gallery", "0000_c1s1_000100_00.jpg", -1),  # distractors share a pid, but are not one person
        ("gallery", "0000_c1s1_000100_01.jpg", -1),
        ("gallery", "0003_c1s1_000150_00.jpg", 5),
        ("gallery", "0003_c1s1_000200_00.jpg", 5),
    ]
    assert len(tracklet_table(table)) == 8
    plain = read_dataset(config.model_copy(update={"tracklets": False})).table
    assert "tracklet" not in plain.arrow.column_names
    assert sorted(plain.paths) == sorted(table.paths)


def test_a_folder_per_tracklet(tmp_path: Path, write_image):
    for name in (
        "train/ann/walk1/f10.jpg",
        "train/ann/walk1/f9.jpg",
        "train/ann/walk2/f1.jpg",
        "train/bob/walk1/f1.jpg",
        "train/alone.jpg",
        "query/ann/walk1/1.jpg",
        "gallery/ann/walk3/1.jpg",
    ):
        write_image(tmp_path / name)
    table = read_dataset(DataConfig(layout="folder", root=str(tmp_path), tracklets=True)).table
    assert rows(table) == [
        ("train", "alone.jpg", -1),
        ("train", "f9.jpg", 0),
        ("train", "f10.jpg", 0),
        ("train", "f1.jpg", 1),
        ("train", "f1.jpg", 2),
        ("query", "1.jpg", 3),
        ("gallery", "1.jpg", 4),
    ]


def test_folders_with_people_and_cameras(tmp_path: Path, write_image):
    for name in ("cam1/7/a/1.jpg", "cam1/7/a/2.jpg", "cam2/7/b/1.jpg"):
        write_image(tmp_path / name)
    config = DataConfig(layout="folder", root=str(tmp_path), tracklets=True, camera_level=0, pid_regex=r"/(\d+)/")
    tracklets = tracklet_table(read_dataset(config).table)
    assert (tracklets.pids.tolist(), tracklets.camids.tolist()) == ([7, 7], [0, 1])


@pytest.mark.parametrize("layout", ["dukemtmc", "mars", "csv", "synthetic"])
def test_other_layouts_have_their_tracklets_or_none(layout: str):
    with pytest.raises(ValueError, match=r"data\.tracklets is for the layouts market1501 and folder"):
        DataConfig(layout=layout, root="x", tracklets=True)


def test_rows_of_a_tracklet_come_together_where_it_begins():
    table = ImageTable.from_columns(path=list("abcdef"), split=["train"] * 5 + ["query"])
    found = with_tracklets(table, ["x", None, "y", "x", "y", "x"], [2, 0, 0, 1, 0, 0])
    assert found.paths == ["d", "a", "b", "c", "e", "f"]
    assert found.tracklets.tolist() == [0, 0, -1, 1, 1, 2]
    assert number_tracklets(found).tolist() == [0, 0, 1, 2, 2, 3]


def test_natural_order():
    names = ["a10", "a2", "a02b", "b1", "10", "9", "a", "A1"]
    assert sorted(names, key=natural_key) == ["9", "10", "A1", "a", "a02b", "a2", "a10", "b1"]
