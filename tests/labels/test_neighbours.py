"""Nearest neighbours against a stable sort of each whole row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from reid_ray.errors import DataError
from reid_ray.labels import nearest
from reid_ray.types import FloatArray

pytestmark = pytest.mark.filterwarnings("error")


def naive_ranking(features: FloatArray) -> list[list[int]]:
    """Rows by similarity, itself first, equal ones by number."""
    similarity_mat = features.astype(np.float64) @ features.astype(np.float64).T
    rows = range(len(features))
    return [sorted(rows, key=lambda j, i=i: (j != i, -similarity_mat[i, j], j)) for i in rows]


@pytest.mark.parametrize("k", [1, 2, 5, 17, 40, 99])
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_stable_sort(make_features: Callable[..., FloatArray], k: int, seed: int) -> None:
    features = make_features(40, seed)
    found = nearest(features, k, device="cpu")
    similarity_mat = features.astype(np.float64) @ features.astype(np.float64).T
    expected = np.array([ranking[:k] for ranking in naive_ranking(features)])
    np.testing.assert_array_equal(found.indices, expected)
    np.testing.assert_allclose(found.similarities, np.take_along_axis(similarity_mat, expected, axis=1), atol=1e-6)
    np.testing.assert_allclose(found.least, similarity_mat.min(axis=1), atol=1e-6)
    assert (found.indices.dtype, found.similarities.dtype, found.least.dtype) == (np.int32, np.float32, np.float32)


@pytest.mark.parametrize("n_rows", [0, 1, 2, 3])
def test_tiny(make_features: Callable[..., FloatArray], n_rows: int) -> None:
    features = make_features(n_rows, 0)
    found = nearest(features, 30, device="cpu")
    assert found.indices.tolist() == naive_ranking(features)
    assert found.similarities.shape == (n_rows, n_rows)
    assert found.least.shape == (n_rows,)


def test_ties_across_the_last_place_go_to_the_lowest_rows() -> None:
    features = np.eye(1, 4, dtype=np.float32).repeat(50, axis=0)
    found = nearest(features, 4, device="cpu")
    assert found.indices[0].tolist() == [0, 1, 2, 3]
    assert found.indices[2].tolist() == [2, 0, 1, 3]
    assert found.indices[49].tolist() == [49, 0, 1, 2]


@pytest.mark.parametrize("block_elements", [1, 80, 1000])
def test_independent_of_block_size(
    make_exact_features: Callable[..., FloatArray], monkeypatch: pytest.MonkeyPatch, block_elements: int
) -> None:
    features = make_exact_features(41, 5)
    whole = nearest(features, 6, device="cpu")
    monkeypatch.setattr("reid_ray.labels.neighbours.BLOCK_ELEMENTS", block_elements)
    blocked = nearest(features, 6, device="cpu")
    np.testing.assert_array_equal(blocked.indices, whole.indices)
    np.testing.assert_array_equal(blocked.similarities, whole.similarities)
    np.testing.assert_array_equal(blocked.least, whole.least)


def test_takes_arrays_as_they_come_and_leaves_them(make_clustered: Callable[..., FloatArray]) -> None:
    """Ray's object store gives read-only memory, a Parquet file float64, a slice strides."""
    features = make_clustered(30, 1)
    expected = nearest(features, 5, device="cpu").indices
    read_only = features.copy()
    read_only.flags.writeable = False
    strided = np.repeat(features, 2, axis=0)[::2]
    for other in (read_only, strided, features.astype(np.float64), np.asfortranarray(features)):
        before = other.copy()
        np.testing.assert_array_equal(nearest(other, 5, device="cpu").indices, expected)
        np.testing.assert_array_equal(other, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_feature_that_is_not_finite_is_named(make_clustered: Callable[..., FloatArray], bad: float) -> None:
    features = make_clustered(9, 0)
    features[[4, 7], 2] = bad
    with pytest.raises(DataError, match=r"row 4 is not finite \(2 such rows\)"):
        nearest(features, 3, device="cpu")


def test_feature_that_is_not_normalised_is_named(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(9, 0)
    features[3] *= 45
    features[5] *= 0.5
    with pytest.raises(DataError, match=r"row 3 has norm 45 \(2 such rows\)"):
        nearest(features, 3, device="cpu")


def test_features_of_low_precision_are_taken(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(50, 0)
    coarse = (features.view(np.uint32) & 0xFFFF0000).view(np.float32)  # cut to bfloat16
    assert nearest(coarse, 3, device="cpu").indices.shape == (50, 3)


def test_matrix_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"matrix \[N, D\].*\[4\]"):
        nearest(np.ones(4, dtype=np.float32), 2, device="cpu")
