"""Walks to another camera and back: against loops, on features whose quality is known, and on degenerate ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_ray.labels import camera_cycles
from reid_ray.labels.camera_cycles import cycle_consistency
from reid_ray.types import FloatArray, IntArray

pytestmark = pytest.mark.filterwarnings("error")


def by_loops(features: FloatArray, camids: IntArray, n_alike: int) -> float:
    similarity_mat = (features @ features.T).tolist()
    images = {camera: [i for i in range(len(camids)) if camids[i] == camera] for camera in set(camids.tolist()) - {-1}}
    consistent, walks = 0, 0
    for camera, members in images.items():
        for i in members:
            for other in images.keys() - {camera}:
                there = max(images[other], key=lambda j: similarity_mat[i][j])  # the first of ties
                back = max(members, key=lambda j: similarity_mat[there][j])
                as_near = [j for j in members if j != i and similarity_mat[i][j] >= similarity_mat[i][back]]
                consistent += back == i or len(as_near) <= n_alike
                walks += 1
    return consistent / walks


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), n_rows=st.integers(4, 40), n_alike=st.integers(0, 3))
def test_equals_loops(seed: int, n_rows: int, n_alike: int) -> None:
    """In steps of 1/4, so that products are exact and tie; with duplicates, far camera numbers and unknown cameras."""
    rng = np.random.default_rng(seed)
    features = (rng.integers(-4, 5, (n_rows, 5)) / 4).astype(np.float32)
    features[:: int(rng.integers(2, 9))] = features[0]
    camids = rng.choice([-1, 2, 40, 7][: int(rng.integers(3, 5))], n_rows)
    camids[:2] = 2, 40
    expected = pytest.approx(by_loops(features, camids, n_alike))
    for rows, similarities in ((3, 10_000), (2048, 1), (2048, 30)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(camera_cycles, "ROWS", rows)
            patch.setattr(camera_cycles, "SIMILARITIES", similarities)
            assert cycle_consistency(features, camids, n_alike=n_alike) == expected


@pytest.mark.parametrize("camids", [[], [-1, -1], [3, 3, -1]])
def test_there_is_no_score_without_two_cameras(camids: list[int]) -> None:
    assert cycle_consistency(np.ones((len(camids), 1), np.float32), np.array(camids, dtype=np.int64)) is None


def world(noise: float, shift: float, rng: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """40 people, 5 images each by each of 3 cameras; cameras shift all features."""
    people, camids = np.repeat(np.arange(40), 15), np.tile(np.repeat(np.arange(3), 5), 40)
    features = rng.standard_normal((40, 32))[people] + shift * 3 * rng.standard_normal((3, 32))[camids]
    features += noise * rng.standard_normal((600, 32))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), camids


def test_better_features_score_higher_and_coinciding_ones_nothing() -> None:
    rng = np.random.default_rng(0)
    scores = [cycle_consistency(*world(noise, shift, rng)) for noise, shift in ((0.2, 0), (1, 0.5), (4, 2))]
    assert scores[0] is not None
    assert scores[0] > 0.9
    assert scores == sorted(scores, reverse=True)
    assert scores[2] < 0.2
    _, camids = world(1, 0, rng)
    constant = np.tile(np.float32([0.6, 0.8]), (600, 1))
    assert cycle_consistency(constant, camids) < 0.02
    merged = np.eye(4, dtype=np.float32)[np.arange(600) // 150]  # ten people at the same point
    assert cycle_consistency(merged, camids) < 0.05
