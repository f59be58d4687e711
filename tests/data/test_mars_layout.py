"""MARS from generated copies of its official form: the counts they were made with, and copies that are broken."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from mars_copies import MarsCounts, write_mars

from reid_ray.config import DataConfig
from reid_ray.data import ImageTable, read_dataset
from reid_ray.data.readers import detect_layout, scan_dataset
from reid_ray.data.tracklets import tracklet_table
from reid_ray.errors import DataError


def read(root: Path, **settings) -> ImageTable:
    return read_dataset(DataConfig(layout="mars", root=str(root), **settings)).table


def counts_of(table: ImageTable) -> tuple[int, int]:
    """(tracklets, images)."""
    return len(tracklet_table(table)), len(table)


@pytest.fixture
def mars(tmp_path: Path) -> Path:
    write_mars(tmp_path / "MARS")
    return tmp_path / "MARS"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("above", [False, True])
def test_reads_the_counts_it_was_made_with(tmp_path: Path, seed: int, above: bool):
    made = write_mars(tmp_path / "MARS", seed=seed)
    config = DataConfig(layout="mars", root=str(tmp_path if above else tmp_path / "MARS"))
    table, (note,) = read_dataset(config).table, scan_dataset(config).notes
    assert counts_of(table.split("train")) == (made.train_tracklets, made.train_images)
    assert counts_of(table.split("query")) == (made.query_tracklets, made.query_images)
    assert counts_of(table.split("gallery")) == (
        made.test_tracklets - made.junk_tracklets,
        made.test_images - made.junk_images,
    )
    assert note == f"{made.junk_tracklets} junk tracklets (pid -1, {made.junk_images} images) left out"
    train, gallery = tracklet_table(table.split("train")), tracklet_table(table.split("gallery"))
    assert len(set(train.pids.tolist())) == made.train_pids
    assert Counter(train.pids.tolist())[made.single_pid] == 1
    assert Counter(gallery.pids.tolist())[0] == made.distractor_tracklets
    assert -1 not in table.pids
    assert not (train.pids == 0).any()
    assert table.name == "mars"


def test_all_counts_are_of_something(tmp_path: Path):
    made = write_mars(tmp_path)
    assert isinstance(made, MarsCounts)
    assert all(value > 0 for value in asdict(made).values())
    assert made.junk_images > made.junk_tracklets


def test_rows(mars: Path):
    """Each row says what its file name says, tracklets are whole, and frames are in order."""
    table = read(mars)
    columns = table.arrow.to_pydict()
    seen: dict[tuple[str, int], tuple[str, int]] = {}
    for path, pid, camid, split, tracklet in zip(*columns.values(), strict=True):
        name = Path(path).name
        assert Path(path).is_file()
        assert Path(path).parts[-3] == ("bbox_train" if split == "train" else "bbox_test")
        assert name.startswith(f"{pid:04d}C{camid + 1}T")
        walk, frame = name.split("F")
        known = seen.get((split, tracklet))
        assert int(frame.removesuffix(".jpg")) == (1 if known is None else known[1] + 1)
        assert known is None or known[0] == walk
        seen[split, tracklet] = walk, int(frame.removesuffix(".jpg"))
    assert len(set(seen.values())) >= 8


def test_queries_are_in_the_gallery_or_not(mars: Path):
    table, without = read(mars), read(mars, queries_in_gallery=False)
    query = set(table.split("query").paths)
    assert query < set(table.split("gallery").paths)
    assert not query & set(without.split("gallery").paths)
    assert len(without.split("gallery")) == len(table.split("gallery")) - len(query)
    assert without.split("query").paths == table.split("query").paths
    # Query and gallery have the same numbers for the same tracklets, and train has others.
    numbers = [
        dict(zip(part.paths, part.tracklets.tolist(), strict=True)) for part in map(table.split, ("query", "gallery"))
    ]
    assert all(numbers[1][path] == number for path, number in numbers[0].items())
    assert not set(table.split("train").tracklets.tolist()) & set(numbers[1].values())


def test_detected(mars: Path):
    assert detect_layout(mars) == "mars"
    assert detect_layout(mars.parent) == "mars"


def save(file: Path, **variables) -> None:
    scipy.io.savemat(file, variables)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda info: (info / "test_name.txt").unlink(), r"Cannot read .*test_name\.txt"),
        (lambda info: (info / "query_IDX.mat").unlink(), r"There is no file .*query_IDX\.mat"),
        (lambda info: (info / "tracks_test_info.mat").write_text("x"), r"tracks_test_info\.mat as a MATLAB file"),
        (
            lambda info: save(info / "tracks_test_info.mat", track_test_info=np.ones((3, 3))),
            r"tracks_test_info\.mat has shape \[3, 3\]",
        ),
        (
            lambda info: save(info / "tracks_train_info.mat", track_train_info=[[1, 2, 1, 1], [3, 99999, 1, 1]]),
            r"tracks_train_info\.mat, row 2: images 3 to 99999, but train_name\.txt has \d+",
        ),
        (
            lambda info: save(info / "tracks_train_info.mat", track_train_info=[[0, 1, 1, 1]]),
            r"tracks_train_info\.mat, row 1: images 0 to 1",
        ),
        (
            lambda info: save(info / "query_IDX.mat", query_IDX=[[1, 999]]),
            r"query 999, but there are \d+ test tracklets",
        ),
        (lambda info: save(info / "query_IDX.mat", query_IDX=[[0]]), "query 0, but"),
        (lambda info: save(info / "query_IDX.mat", a=1, b=2), r"query_IDX\.mat has 2 variables"),
        (
            lambda info: save(info / "tracks_train_info.mat", track_train_info=[[1, 1, 1, 2]]),
            r"0001C1T0001F001\.jpg is in a tracklet of pid 1, camera 2, but its name says another",
        ),
        (
            lambda info: (info.parent / "bbox_train/0001/0001C1T0001F001.jpg").unlink(),
            r"0001C1T0001F001\.jpg is in a list of the train split but not on disk",
        ),
    ],
)
def test_what_is_wrong_is_named(mars: Path, spoil, message: str):
    spoil(mars / "info")
    with pytest.raises(DataError, match=message):
        read(mars)


def test_one_tracklet_and_one_query(mars: Path):
    """MATLAB has no vectors: a single row comes as such."""
    save(mars / "info" / "tracks_train_info.mat", track_train_info=[[1, 1, 1, 1]])
    test = scipy.io.loadmat(mars / "info" / "query_IDX.mat")["query_IDX"]
    save(mars / "info" / "query_IDX.mat", query_IDX=test[:, :1])
    table = read(mars)
    assert counts_of(table.split("train")) == (1, 1)
    assert counts_of(table.split("query"))[0] == 1
