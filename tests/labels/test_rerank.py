"""Re-ranking against the published algorithm written out densely, with sets, in float64."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from reid_ray.errors import ConfigError, DataError
from reid_ray.labels import jaccard_graph
from reid_ray.labels.rerank import reranked_distances
from reid_ray.types import FloatArray

pytestmark = pytest.mark.filterwarnings("error")

HALF = {1: 1, 2: 2, 3: 3, 4: 3, 5: 3, 6: 4, 7: 5, 9: 5, 13: 7, 20: 11}
"""round(k1/2) + 1 with halves rounded to even, by hand."""


def naive_reranking(
    query: FloatArray, gallery: FloatArray, k1: int, k2: int, lambda_value: float
) -> npt.NDArray[np.float64]:
    """Dense float64 [Q, G], from all pairs of queries and gallery."""
    features = np.concatenate([query, gallery]).astype(np.float64)
    n_queries, n_images = len(query), len(features)
    original = 2 - 2 * features @ features.T
    largest = original.max(axis=1, keepdims=True)
    original = np.where(largest > 1e-5, original / np.maximum(largest, 1e-5), original / 1e-5)
    ranking = [sorted(range(n_images), key=lambda j, i=i: (j != i, original[i, j], j)) for i in range(n_images)]

    def reciprocal(i: int, size: int) -> set[int]:
        return {j for j in ranking[i][:size] if i in ranking[j][:size]}

    weight_mat = np.zeros((n_images, n_images))
    for i in range(n_images):
        base = reciprocal(i, k1 + 1)
        members = sorted(
            base.union(*(half for j in base if len((half := reciprocal(j, HALF[k1])) & base) * 3 > 2 * len(half)))
        )
        weight_mat[i, members] = np.exp(-original[i, members])
        weight_mat[i] /= weight_mat[i].sum()
    if k2 > 1:
        weight_mat = np.stack([weight_mat[ranking[i][:k2]].mean(axis=0) for i in range(n_images)])
    final = np.empty((n_queries, n_images - n_queries))
    for q in range(n_queries):
        for g in range(n_images - n_queries):
            shared = np.minimum(weight_mat[q], weight_mat[n_queries + g]).sum()
            jaccard = 1 - shared / (2 - shared)
            final[q, g] = (1 - lambda_value) * jaccard + lambda_value * original[q, n_queries + g]
    return final


def reranked(query: FloatArray, gallery: FloatArray, **options: float) -> FloatArray:
    """All blocks as one matrix, after checking that they cover all rows in order."""
    found = list(reranked_distances(query, gallery, device="cpu", **options))
    borders = [rows.start for rows, _ in found] + [len(query)]
    assert [rows.stop for rows, _ in found] == borders[1:]
    assert borders[0] == 0
    for rows, distances in found:
        assert distances.dtype == np.float32
        assert distances.shape == (rows.stop - rows.start, len(gallery))
    return np.concatenate([np.empty((0, len(gallery)), np.float32), *(distances for _, distances in found)])


@pytest.mark.parametrize("lambda_value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("k1", "k2"), [(5, 2), (6, 1), (7, 4), (13, 3), (2, 5), (1, 1)])
def test_equals_the_dense_definition(
    make_features: Callable[..., FloatArray], k1: int, k2: int, lambda_value: float
) -> None:
    features = make_features(46, k1)
    query, gallery = features[:13], features[13:]
    distances = reranked(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value, chunk=5)
    np.testing.assert_allclose(distances, naive_reranking(query, gallery, k1, k2, lambda_value), atol=1e-5, rtol=0)


@pytest.mark.parametrize("noise", [0.3, 0.6])
def test_published_settings(make_clustered: Callable[..., FloatArray], noise: float) -> None:
    features = make_clustered(160, 0, per_cluster=20, noise=noise)
    query, gallery = features[:40], features[40:]
    expected = naive_reranking(query, gallery, 20, 6, 0.3)
    distances = reranked(query, gallery)
    np.testing.assert_allclose(distances, expected, atol=1e-5, rtol=0)
    plain = 2 - 2 * query @ gallery.T
    assert (distances.argmin(axis=1) != plain.argmin(axis=1)).any(), "a case in which nothing moves tests nothing"


@pytest.mark.parametrize(("n_queries", "n_gallery"), [(1, 1), (1, 2), (2, 1), (3, 4), (1, 11), (9, 3), (1, 60)])
def test_few_images_and_a_single_query(
    make_features: Callable[..., FloatArray], n_queries: int, n_gallery: int
) -> None:
    features = make_features(n_queries + n_gallery, 1)
    query, gallery = features[:n_queries], features[n_queries:]
    expected = naive_reranking(query, gallery, 20, 6, 0.3)
    np.testing.assert_allclose(reranked(query, gallery), expected, atol=1e-5, rtol=0)


def test_no_queries_and_no_gallery(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(20, 0)
    assert reranked(features[:0], features).shape == (0, 20)
    assert reranked(features, features[:0]).shape == (20, 0)


@pytest.mark.parametrize("chunk", [1, 4, 17, 100])
def test_independent_of_chunk_and_threads(
    make_exact_features: Callable[..., FloatArray], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    features = make_exact_features(80, 2)
    whole = reranked(features[:17], features[17:], k1=7, k2=3)
    monkeypatch.setattr("reid_ray.labels.threads.torch.get_num_threads", lambda: 3)
    np.testing.assert_array_equal(reranked(features[:17], features[17:], k1=7, k2=3, chunk=chunk), whole)


def test_without_the_original_distance_it_is_the_graph_of_the_labels(
    make_clustered: Callable[..., FloatArray],
) -> None:
    features = make_clustered(90, 5)
    graph = jaccard_graph(features, k1=9, k2=3, max_distance=0.9, variant="cvpr17", device="cpu")
    stored = graph.tocsr()[:30, 30:].tocoo()
    assert stored.nnz > 100
    distances = reranked(features[:30], features[30:], k1=9, k2=3, lambda_value=0)
    np.testing.assert_allclose(distances[stored.coords], stored.data, atol=1e-6)
    assert distances.max() == 1


def test_read_only_and_float64_features(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(60, 4)
    expected = reranked(features[:20], features[20:])
    features.flags.writeable = False
    np.testing.assert_array_equal(reranked(features[:20], features[20:]), expected)
    wide = features.astype(np.float64)
    np.testing.assert_array_equal(reranked(wide[:20], wide[20:]), expected)


def test_blocks_come_one_at_a_time(make_clustered: Callable[..., FloatArray]) -> None:
    """Q × G takes 12 MB here; only a few blocks and the weights may exist at a time."""
    features = make_clustered(4000, 0)
    blocks = reranked_distances(features[:1000], features[1000:], k1=6, k2=2, chunk=32, device="cpu")
    next(blocks)
    tracemalloc.start()
    try:
        assert sum(rows.stop - rows.start for rows, _ in blocks) == 1000 - 32
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6e6


def test_invalid_arguments_are_refused(make_clustered: Callable[..., FloatArray]) -> None:
    """Errors are raised by the call, before any iteration."""
    features = make_clustered(10, 0)
    for options in ({"k1": 0}, {"k2": 0}):
        with pytest.raises(ConfigError, match=r"k1=.*, k2="):
            reranked_distances(features, features, **options)
    with pytest.raises(ValueError, match="chunk=0"):
        reranked_distances(features, features, chunk=0)
    for value in (-0.1, 1.1, np.nan):
        with pytest.raises(ConfigError, match=r"must be from 0 to 1"):
            reranked_distances(features, features, lambda_value=value)
    with pytest.raises(DataError, match=r"\[10, 16\].*\[10, 15\]"):
        reranked_distances(features, features[:, 1:])
    with pytest.raises(DataError, match="row 12"):
        reranked_distances(features, np.where(np.arange(10)[:, None] == 2, np.nan, features))
