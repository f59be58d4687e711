"""Temporal pooling against loops over tracklets, whatever the order of rows and the size of blocks."""

from __future__ import annotations

import numpy as np
import pytest

from reid_ray.data import temporal_pooling
from reid_ray.data.temporal_pooling import TemporalPooling, pool_tracklets
from reid_ray.data.tracklets import even_frames, random_frames

POOLINGS = {
    "TP(E)": TemporalPooling(n_parts=1),
    "TP(R)": TemporalPooling(n_parts=1, sampling="random", seed=3),
    "TPP(E)": TemporalPooling(),
    "TPP(R)": TemporalPooling(sampling="random", seed=3),
    "mean of all": TemporalPooling(n_parts=1, n_frames=None),
    "parts of all": TemporalPooling(n_frames=None),
    "two frames": TemporalPooling(n_parts=2, n_frames=2),
}


def naive(features, tracklets, pooling, order=None):
    result = []
    for k in sorted(set(tracklets.tolist())):
        rows = [row for row in range(len(features)) if tracklets[row] == k]
        if order is not None:
            rows.sort(key=lambda row: order[row])
        n, n_parts = len(rows), pooling.n_parts
        if pooling.n_frames is None:
            spans = [(p * n // n_parts, (p + 1) * n // n_parts) for p in range(n_parts)]
            parts = [rows[start : max(stop, start + 1)] for start, stop in spans]
        else:
            rng = np.random.default_rng((pooling.seed, k))
            frames = (
                even_frames(n, pooling.n_frames)
                if pooling.sampling == "even"
                else random_frames(n, pooling.n_frames, rng)
            )
            each = pooling.n_frames // n_parts
            parts = [[rows[f] for f in frames[p * each : (p + 1) * each]] for p in range(n_parts)]
        result.append(np.concatenate([sum(features[row] for row in part) / len(part) for part in parts]))
    return np.array(result)


def random_video(seed: int, *, interleaved: bool):
    """Tracklets of 1 to 40 frames, among them several of one frame."""
    rng = np.random.default_rng(seed)
    tracklets = np.repeat(np.arange(7), [1, 2, 15, 40, 1, 14, 3])
    if interleaved:
        rng.shuffle(tracklets)
    features = rng.standard_normal((len(tracklets), 5)).astype(np.float32)
    return features, tracklets, rng.permutation(len(tracklets)) // 2  # with ties


@pytest.mark.parametrize("block_rows", [1, 10, 4096])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("name", list(POOLINGS))
def test_equals_a_loop(monkeypatch: pytest.MonkeyPatch, name: str, interleaved: bool, block_rows: int):
    monkeypatch.setattr(temporal_pooling, "BLOCK_ROWS", block_rows)
    for seed in range(3):
        features, tracklets, order = random_video(seed, interleaved=interleaved)
        for given in (None, order):
            found = pool_tracklets(features, tracklets, POOLINGS[name], order=given)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, naive(features, tracklets, POOLINGS[name], given), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(POOLINGS))
def test_a_tracklet_of_one_image_is_the_image(name: str):
    features = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    found = pool_tracklets(features, np.array([2, 0, 3, 1]), POOLINGS[name])
    assert np.array_equal(found, np.tile(features[[1, 3, 0, 2]], POOLINGS[name].n_parts))


def test_size_of_the_thesis():
    assert pool_tracklets(np.ones((2, 3328), np.float32), np.array([0, 0]), TemporalPooling()).shape == (1, 9984)


def test_tpp_tells_beginning_middle_and_end():
    """Frames are numbered: even sampling of 45 takes the middle of every three, and TP is the mean of all."""
    frames = np.arange(45, dtype=np.float32)[:, None]
    alone = np.zeros(45, dtype=np.int64)
    assert pool_tracklets(frames, alone, TemporalPooling()).tolist() == [[7, 22, 37]]
    assert pool_tracklets(frames, alone, TemporalPooling(n_parts=1)).tolist() == [[22]]


def test_random_frames_of_a_tracklet_do_not_depend_on_the_others():
    features, tracklets, _ = random_video(0, interleaved=True)
    whole = pool_tracklets(features, tracklets, POOLINGS["TPP(R)"])
    kept = tracklets <= 3
    assert np.array_equal(pool_tracklets(features[kept], tracklets[kept], POOLINGS["TPP(R)"]), whole[:4])
    again = pool_tracklets(features, tracklets, TemporalPooling(sampling="random", seed=4))
    assert not np.array_equal(again, whole)


class Recorded:
    """Features that are only read by slices, and note which."""

    def __init__(self, values):
        self.values, self.shape, self.read = values, values.shape, []

    def __getitem__(self, rows: slice):
        self.read.append((rows.start, rows.stop))
        return self.values[rows]


def test_features_are_read_once_in_blocks_and_only_where_frames_are_sampled(monkeypatch: pytest.MonkeyPatch):
    """A tracklet a hundred times longer than a block needs no more memory; of 100 blocks it has frames in 15."""
    monkeypatch.setattr(temporal_pooling, "BLOCK_ROWS", 10)
    features = Recorded(np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32))
    tracklets = np.zeros(1000, dtype=np.int64)
    found = pool_tracklets(features, tracklets, TemporalPooling())
    np.testing.assert_allclose(found, naive(features.values, tracklets, TemporalPooling()), rtol=1e-5, atol=1e-6)
    assert len(features.read) == len(set(features.read)) == 15
    assert all(stop - start == 10 for start, stop in features.read)


def test_what_cannot_be_pooled():
    features = np.ones((3, 2), np.float32)
    for tracklets in ([0, 1], [0, 2, 2]):
        with pytest.raises(ValueError, match="tracklet numbers for 3 features"):
            pool_tracklets(features, np.array(tracklets), TemporalPooling())
    for settings in ({"n_parts": 0}, {"n_frames": 14}, {"n_frames": 0}):
        with pytest.raises(ValueError, match="equal parts"):
            TemporalPooling(**settings)
    nothing = pool_tracklets(np.empty((0, 2), np.float32), np.empty(0, np.int64), TemporalPooling())
    assert nothing.shape == (0, 6)
