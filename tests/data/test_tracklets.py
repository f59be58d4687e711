"""Frames of tracklets, and tables of tracklets, against loops."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from reid_ray.data.table import ImageTable
from reid_ray.data.tracklets import (
    even_frames,
    number_tracklets,
    random_frames,
    sample_frames,
    tracklet_rows,
    tracklet_table,
)
from reid_ray.errors import DataError


@pytest.mark.parametrize("n_samples", [1, 2, 15, 16])
def test_even_frames(n_samples: int):
    for n_frames in range(1, 60):
        expected = [floor((i + Fraction(1, 2)) * n_frames / n_samples) for i in range(n_samples)]
        found = even_frames(n_frames, n_samples)
        assert found.tolist() == expected
        assert found.dtype == np.int64
        assert found.max() < n_frames


def test_even_frames_of_short_tracklets():
    assert even_frames(1, 15).tolist() == [0] * 15
    assert even_frames(2, 15).tolist() == [0] * 7 + [1] * 8
    assert even_frames(15, 15).tolist() == list(range(15))
    assert even_frames(45, 15).tolist() == list(range(1, 45, 3))


def test_random_frames():
    seen = set()
    for n_frames in (1, 2, 7, 14, 15, 16, 40):
        for seed in range(20):
            found = random_frames(n_frames, 15, np.random.default_rng(seed))
            assert found.tolist() == sorted(found.tolist())
            assert found.dtype == np.int64
            counts = np.bincount(found, minlength=n_frames)
            assert len(counts) == n_frames
            assert counts.sum() == 15
            assert set(counts) <= {15 // n_frames, 15 // n_frames + 1}
            if n_frames == 40:
                seen.update(found.tolist())
    assert len(seen) == 40
    assert (
        random_frames(30, 5, np.random.default_rng(3)).tolist()
        == random_frames(30, 5, np.random.default_rng(3)).tolist()
    )


@pytest.mark.parametrize(("n_frames", "n_samples"), [(0, 3), (3, 0)])
def test_nothing_cannot_be_sampled(n_frames: int, n_samples: int):
    with pytest.raises(ValueError, match="at least one"):
        even_frames(n_frames, n_samples)
    with pytest.raises(ValueError, match="at least one"):
        random_frames(n_frames, n_samples, np.random.default_rng(0))


def table_of(tracklets: list[int] | None, splits: list[str], **columns) -> ImageTable:
    n = len(splits)
    extra = {} if tracklets is None else {"tracklet": tracklets}
    return ImageTable.from_columns(
        path=[f"{i}.jpg" for i in range(n)],
        split=splits,
        name="video",
        extra={**extra, **columns.pop("extra", {})},
        **columns,
    )


def naive_numbers(table: ImageTable) -> list[int]:
    seen: dict[object, int] = {}
    numbers = []
    for row, (split, tracklet) in enumerate(
        zip(table.arrow["split"].to_pylist(), table.tracklets.tolist(), strict=True)
    ):
        key = (split, tracklet) if tracklet != -1 else ("alone", row)
        numbers.append(seen.setdefault(key, len(seen)))
    return numbers


def test_numbers_of_tracklets():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 30))
        tracklets = rng.choice([-1, 0, 3, 10**12, 7], n).tolist()
        splits = rng.choice(["train", "query", "gallery"], n).tolist()
        table = table_of(tracklets, splits)
        assert number_tracklets(table).tolist() == naive_numbers(table)


def test_without_a_column_every_image_is_a_tracklet():
    assert number_tracklets(table_of(None, ["train", "query", "train"])).tolist() == [0, 1, 2]
    assert number_tracklets(table_of(None, [])).tolist() == []


def test_table_of_tracklets():
    table = table_of(
        [5, 5, -1, 5, 8, 5],
        ["train", "query", "train", "train", "gallery", "query"],
        pid=[1, 1, 2, 1, 3, 1],
        camid=[0, 1, 0, 0, 2, 1],
        extra={"attr_hat": [1, 0, -1, 1, 0, 0]},
    )
    found = tracklet_table(table)
    assert found.arrow.to_pydict() == {
        "path": ["0.jpg", "1.jpg", "2.jpg", "4.jpg"],
        "pid": [1, 1, 2, 3],
        "camid": [0, 1, 0, 2],
        "split": ["train", "query", "train", "gallery"],
        "tracklet": [5, 5, -1, 8],
        "attr_hat": [1, 0, -1, 0],
    }
    assert found.name == "video"
    assert len(tracklet_table(table_of([], []))) == 0


@pytest.mark.parametrize("column", ["pid", "camid"])
def test_a_tracklet_of_two_people_or_cameras_is_refused(column: str):
    table = table_of([4, 6, 4], ["train"] * 3, **{column: [1, 1, 2]})
    with pytest.raises(DataError, match=rf"video: tracklet 4 has images of {column} 1 \(0.jpg\) and 2 \(2.jpg\)"):
        tracklet_table(table)


def test_rows_of_tracklets():
    table = table_of([7, -1, 2, 7, -1, 2, 2], ["train"] * 7)
    groups = tracklet_rows(number_tracklets(table))
    assert [rows.tolist() for rows in groups] == [[0, 3], [1], [2, 5, 6], [4]]
    assert tracklet_rows(number_tracklets(table_of([], []))) == []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        numbers = number_tracklets(table_of(rng.choice([-1, 4, 5, 6], 12).tolist(), ["train"] * 12))
        expected = [[row for row in range(12) if numbers[row] == k] for k in range(numbers.max() + 1)]
        assert [rows.tolist() for rows in tracklet_rows(numbers)] == expected


def test_random_frames_of_drawn_tracklets():
    tracklets = [np.array([4, 5, 6, 7, 8, 9]), np.array([0, 2]), np.array([3])]
    items = np.random.default_rng(0).integers(0, 3, (200, 4))
    frames = sample_frames(tracklets, items, 3, np.random.default_rng(1), sampling="random")
    assert frames.shape == (200, 4, 3)
    seen = set()
    for item, rows in zip(items.ravel(), frames.reshape(-1, 3), strict=True):
        own = tracklets[item].tolist()
        places = [own.index(row) for row in rows]
        assert places == sorted(places)
        assert len(set(places)) == min(3, len(own)), "no repeats while there are enough, all where there are not"
        if item == 0:
            seen.add(tuple(rows))
    assert len(seen) == 20, "each of the 6·5·4/3! choices comes"


def test_even_frames_of_drawn_tracklets_do_not_read_the_generator():
    tracklets = [np.array([4, 5, 6, 7, 8, 9]), np.array([0, 2]), np.array([3])]
    rng = np.random.default_rng(1)
    frames = sample_frames(tracklets, np.array([[0, 1], [2, 0]]), 3, rng, sampling="even")
    assert frames.tolist() == [[[5, 7, 9], [0, 2, 2]], [[3, 3, 3], [5, 7, 9]]]
    assert rng.random() == np.random.default_rng(1).random()
