"""Approximate neighbours: the order and the padding are those of exact lists, and recall counts what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from reid_ray.errors import ConfigError, DataError
from reid_ray.labels.neighbours import approximate
from reid_ray.labels.neighbours.approximate import nearest_approximate, recall
from reid_ray.labels.neighbours.exact import Neighbours, nearest
from reid_ray.types import FloatArray

METHODS = ["ivf", "hnsw"]


@pytest.fixture
def _faiss() -> None:
    pytest.importorskip("faiss", reason="the extra 'ann' is not installed")


with_faiss = pytest.mark.usefixtures("_faiss")


class Parts:
    """Features that are read by rows and are not an array."""

    def __init__(self, features: FloatArray) -> None:
        self._features = features
        self.shape = features.shape

    def __getitem__(self, rows: slice) -> FloatArray:
        return self._features[rows].copy()


def assert_lists_are_in_order(features: FloatArray, found: Neighbours) -> None:
    """The row itself first; then by similarity, ties by row number; no repeats; padded with −1; exact similarities."""
    exact = (features.astype(np.float64) @ features.astype(np.float64).T).astype(np.float32)
    for row, (indices, similarities) in enumerate(zip(found.indices, found.similarities, strict=True)):
        n = int((indices >= 0).sum())
        assert (indices[n:] == -1).all()
        assert (similarities[n:] == 0).all()
        assert len(np.unique(indices[:n])) == n
        assert indices[0] == row
        np.testing.assert_allclose(similarities[:n], exact[row, indices[:n]], atol=1e-7)
        keys = list(zip(-similarities[1:n], indices[1:n], strict=True))
        assert keys == sorted(keys)


@with_faiss
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_rows", [0, 1, 2, 40, 150])
def test_lists_are_in_order(make_features: Callable[..., FloatArray], method: str, n_rows: int) -> None:
    features = make_features(n_rows, 5)
    found = nearest_approximate(features, 12, method=method)
    assert found.indices.shape == found.similarities.shape == (n_rows, min(12, n_rows))
    assert (found.indices.dtype, found.similarities.dtype) == (np.int32, np.float32)
    assert_lists_are_in_order(features, found)


@with_faiss
@pytest.mark.parametrize("method", METHODS)
def test_finds_what_the_exact_search_finds(make_clustered: Callable[..., FloatArray], method: str) -> None:
    """If every cell is visited, the lists equal those of the exact search."""
    features = make_clustered(400, 2)
    found = nearest_approximate(features, 15, method=method, breadth=400)
    exact = nearest(features, 15, device="cpu")
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.similarities, exact.similarities)
    assert recall(features, found) == 1


@with_faiss
def test_fewer_cells_miss_more(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(3000, 4, noise=1.0)
    narrow, wide = (recall(features, nearest_approximate(features, 30, breadth=breadth)) for breadth in (1, 20))
    assert 0.1 < narrow < wide - 0.1
    assert wide > 0.9


@with_faiss
def test_missing_candidates_are_padded(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(400, 2)
    found = nearest_approximate(features, 200, breadth=1)
    assert (found.indices == -1).any()
    assert_lists_are_in_order(features, found)


@with_faiss
@pytest.mark.parametrize("method", METHODS)
def test_streamed_features_give_the_same_lists(
    make_clustered: Callable[..., FloatArray], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = make_clustered(300, 6)
    whole = nearest_approximate(features, 9, method=method, breadth=300)
    monkeypatch.setattr(approximate, "READ_ROWS", 64)
    monkeypatch.setattr(approximate, "QUERY_ROWS", 100)
    parts = nearest_approximate(Parts(features), 9, method=method, breadth=300)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    np.testing.assert_array_equal(parts.similarities, whole.similarities)
    assert recall(Parts(features), parts) == 1


@with_faiss
def test_ivf_is_deterministic(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(2000, 4, noise=1.0)
    first, again, other = (nearest_approximate(features, 20, breadth=2, seed=seed).indices for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@with_faiss
@pytest.mark.parametrize(
    ("options", "message"),
    [({"method": "lsh"}, "Unknown approximate search"), ({"breadth": 0}, "at least 1"), ({"k": 0}, "at least 1")],
)
def test_invalid_arguments_are_refused(
    make_clustered: Callable[..., FloatArray], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        nearest_approximate(make_clustered(20, 0), **{"k": 5} | options)


@with_faiss
def test_features_are_checked() -> None:
    with pytest.raises(DataError, match="norm"):
        nearest_approximate(np.ones((20, 4), dtype=np.float32), 5)


def test_missing_faiss_is_refused(make_clustered: Callable[..., FloatArray], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(approximate, "import_module", missing)
    with pytest.raises(ConfigError, match="faiss, which is not installed"):
        nearest_approximate(make_clustered(20, 0), 5)


def test_recall_counts_what_is_missing(make_features: Callable[..., FloatArray]) -> None:
    features = make_features(70, 8)
    exact = nearest(features, 11, device="cpu")
    assert recall(features, exact) == 1
    missing = exact.indices.copy()
    missing[:, 8:] = -1
    assert recall(features, replace(exact, indices=missing)) == pytest.approx(0.7)
    strangers = replace(exact, indices=np.where(np.arange(11) == 0, exact.indices, -1).astype(np.int32))
    assert recall(features, strangers) == 0


def test_recall_of_a_sample_in_blocks(
    make_features: Callable[..., FloatArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate, "READ_ROWS", 16)
    features = make_features(70, 8)
    exact = nearest(features, 11, device="cpu")
    assert recall(features, exact, sample=20, seed=3) == 1
    reversed_rows = Neighbours(exact.indices[::-1].copy(), exact.similarities)
    assert recall(Parts(features), reversed_rows, sample=70) == recall(features, reversed_rows, sample=70)


@pytest.mark.parametrize("n_rows", [0, 1])
def test_nothing_to_find(n_rows: int) -> None:
    features = np.ones((n_rows, 1), dtype=np.float32)
    assert recall(features, nearest(features, 5, device="cpu")) == 1
