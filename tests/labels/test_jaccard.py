"""The sparse Jaccard graph against the published description, written out with sets and dense rows in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.sparse import csr_array, vstack

from reid_ray.errors import ConfigError, DataError
from reid_ray.labels.encoding import (
    JaccardParams,
    NeighbourLists,
    encode,
    expand_queries,
    join_lists,
    reciprocal_weights,
    search,
)
from reid_ray.labels.jaccard import graph_of_weights, jaccard_graph
from reid_ray.labels.neighbours.exact import Neighbours
from reid_ray.labels.neighbours.products import find_centre
from reid_ray.types import FloatArray

pytestmark = pytest.mark.filterwarnings("error")

VARIANTS = ["spcl", "cvpr17"]
HALF = {1: 1, 2: 2, 3: 3, 4: 3, 5: 3, 6: 4, 7: 5, 9: 5, 13: 7, 20: 11, 30: 16}
"""round(k1/2) + 1 with halves rounded to even, by hand."""


def naive_jaccard(features: FloatArray, k1: int, k2: int, variant: str) -> npt.NDArray[np.float64]:
    """Dense float64 [N, N]."""
    n_rows = len(features)
    similarity_mat = features.astype(np.float64) @ features.astype(np.float64).T
    ranking = [sorted(range(n_rows), key=lambda j, i=i: (j != i, -similarity_mat[i, j], j)) for i in range(n_rows)]

    def reciprocal(i: int, size: int) -> set[int]:
        return {j for j in ranking[i][:size] if i in ranking[j][:size]}

    size = k1 if variant == "spcl" else k1 + 1
    weight_mat = np.zeros((n_rows, n_rows))
    for i in range(n_rows):
        base = reciprocal(i, size)
        members = set(base)
        for candidate in base:
            half = reciprocal(candidate, HALF[k1])
            if len(half & base) / len(half) > 2 / 3 + 1e-9:
                members |= half
        squared = 2 - 2 * similarity_mat[i]
        if variant == "cvpr17" and squared.max() > 1e-5:
            squared = squared / squared.max()
        for j in members:
            weight_mat[i, j] = np.exp(-squared[j])
        weight_mat[i] /= weight_mat[i].sum()
    weight_mat = np.array([weight_mat[ranking[i][:k2]].mean(axis=0) for i in range(n_rows)]).reshape(n_rows, n_rows)
    jaccard_mat = np.zeros((n_rows, n_rows))
    for i in range(n_rows):
        for j in range(n_rows):
            shared = np.minimum(weight_mat[i], weight_mat[j]).sum()
            jaccard_mat[i, j] = max(0.0, 1 - shared / (2 - shared))
    return jaccard_mat


def assert_is_graph_of(graph: csr_array, jaccard_mat: npt.NDArray[np.float64], max_distance: float) -> None:
    n_rows = len(jaccard_mat)
    assert graph.shape == (n_rows, n_rows)
    assert graph.dtype == np.float32
    rows = np.repeat(np.arange(n_rows), np.diff(graph.indptr))
    stored = np.zeros((n_rows, n_rows), dtype=bool)
    stored[rows, graph.indices] = True
    assert stored.sum() == graph.nnz, "a pair is stored twice"
    assert stored[np.diag_indices(n_rows)].all(), "the diagonal is stored"
    assert (graph.diagonal() == 0).all()
    assert all((np.diff(part) > 0).all() for part in np.split(graph.indices, graph.indptr[1:-1])), "columns ascend"
    np.testing.assert_allclose(graph.data, jaccard_mat[rows, graph.indices], atol=2e-6)
    assert stored[jaccard_mat < max_distance - 1e-5].all(), "a near pair is missing"
    assert not stored[jaccard_mat > max_distance + 1e-5].any(), "a far pair is stored"


def assert_same_bits(a: csr_array, b: csr_array) -> None:
    np.testing.assert_array_equal(a.indptr, b.indptr)
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_array_equal(a.data.view(np.uint32), b.data.view(np.uint32))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("k1", "k2"), [(5, 2), (6, 1), (7, 4), (9, 6), (13, 3), (2, 5), (3, 1), (1, 1)])
@pytest.mark.parametrize("max_distance", [0.4, 0.8])
def test_equals_the_dense_definition(
    make_features: Callable[..., FloatArray], variant: str, k1: int, k2: int, max_distance: float
) -> None:
    features = make_features(45, k1)
    graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=max_distance, variant=variant, device="cpu")
    assert_is_graph_of(graph, naive_jaccard(features, k1, k2, variant), max_distance)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("k1", "k2"), [(30, 6), (20, 6)])
def test_published_settings(make_clustered: Callable[..., FloatArray], variant: str, k1: int, k2: int) -> None:
    features = make_clustered(150, 0, per_cluster=20, noise=0.5)
    graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=0.7, variant=variant, device="cpu")
    assert graph.nnz > 2 * len(features)
    assert_is_graph_of(graph, naive_jaccard(features, k1, k2, variant), 0.7)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, 5, 12])
def test_fewer_rows_than_neighbours(make_features: Callable[..., FloatArray], variant: str, n_rows: int) -> None:
    features = make_features(n_rows, 1)
    graph = jaccard_graph(features, k1=30, k2=6, max_distance=0.55, variant=variant, device="cpu")
    assert_is_graph_of(graph, naive_jaccard(features, 30, 6, variant), 0.55)


@pytest.mark.parametrize("variant", VARIANTS)
def test_symmetric_to_the_last_bit(make_features: Callable[..., FloatArray], variant: str) -> None:
    graph = jaccard_graph(make_features(120, 3), k1=9, k2=4, max_distance=0.9, variant=variant, device="cpu")
    mirrored = graph.T.tocsr()
    mirrored.sort_indices()
    assert_same_bits(graph, mirrored)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows_per_block", [1, 7, 64])
def test_independent_of_blocks(
    make_exact_features: Callable[..., FloatArray],
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    rows_per_block: int,
) -> None:
    def compute() -> csr_array:
        features = make_exact_features(70, 2)
        return jaccard_graph(features, k1=9, k2=4, max_distance=0.8, variant=variant, device="cpu")

    whole = compute()
    monkeypatch.setattr("reid_ray.labels.encoding.ROWS_PER_BLOCK", rows_per_block)
    monkeypatch.setattr("reid_ray.labels.neighbours.candidates.BLOCK_ROWS", rows_per_block)
    monkeypatch.setattr("reid_ray.labels.neighbours.candidates.BLOCK_COLUMNS", rows_per_block)
    assert_same_bits(compute(), whole)
    monkeypatch.setattr("reid_ray.labels.encoding.MAX_BLOCKS", 3)
    assert_same_bits(compute(), whole)


def test_independent_of_threads(make_clustered: Callable[..., FloatArray], monkeypatch: pytest.MonkeyPatch) -> None:
    features = make_clustered(200, 0)
    monkeypatch.setattr("reid_ray.labels.encoding.ROWS_PER_BLOCK", 9)
    graphs = []
    for n_threads in (1, 4):
        # Only our threads: the product of PyTorch's own may differ in the last bit.
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        graphs.append(jaccard_graph(features, k1=9, k2=4, max_distance=0.8, device="cpu"))
    assert_same_bits(*graphs)


def test_buffers_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 rows in one block, 600 of them identical: every pair of those is stored."""
    features = np.zeros((2000, 64), dtype=np.float32)
    features[:600, 0] = 1
    features[600:] = np.random.default_rng(0).normal(size=(1400, 64)).astype(np.float32)
    features[600:] /= np.linalg.norm(features[600:], axis=1, keepdims=True)
    blocks = jaccard_graph(features, k1=20, k2=6, max_distance=0.6, device="cpu")
    monkeypatch.setattr("reid_ray.labels.encoding.ROWS_PER_BLOCK", 10_000)
    whole = jaccard_graph(features, k1=20, k2=6, max_distance=0.6, device="cpu")
    assert whole.nnz > 600 * 600
    assert_same_bits(whole, blocks)


def test_pair_at_max_distance_is_stored(make_clustered: Callable[..., FloatArray]) -> None:
    """Compared in float32, as DBSCAN compares: no pair is lost because 0.55 is not a float32 number."""
    features = make_clustered(60, 4, noise=0.6)

    def data(max_distance: float) -> FloatArray:
        return np.unique(jaccard_graph(features, k1=9, k2=3, max_distance=max_distance, device="cpu").data)

    limit = data(0.8)[-1]
    assert data(float(limit))[-1] == limit
    assert data(float(limit) * (1 - 1e-9))[-1] == limit
    assert data(float(np.nextafter(limit, np.float32(0))))[-1] < limit


def test_read_only_features(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(60, 4)
    expected = jaccard_graph(features, k1=9, k2=3, max_distance=0.7, device="cpu")
    features.flags.writeable = False
    assert_same_bits(jaccard_graph(features, k1=9, k2=3, max_distance=0.7, device="cpu"), expected)
    assert_same_bits(jaccard_graph(features.astype(np.float64), k1=9, k2=3, max_distance=0.7, device="cpu"), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nearly_equal_features_give_finite_distances(variant: str) -> None:
    """A nearly collapsed network: d² is rounding error, and `cvpr17` divides by its maximum."""
    rng = np.random.default_rng(0)
    features = 1 + 1e-6 * rng.normal(size=(80, 512))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    graph = jaccard_graph(features, k1=9, k2=3, max_distance=0.9, variant=variant, device="cpu")
    assert np.isfinite(graph.data).all()
    assert graph.data.min() >= 0
    assert (graph.diagonal() == 0).all()


def test_scale_is_never_zero() -> None:
    """All images identical, with similarities that round to slightly above 1: the largest distance is 0."""
    rows = np.arange(12, dtype=np.int32)
    indices = np.stack([np.roll(rows, -i) for i in rows])
    above = np.full((12, 12), 1 + 1e-6, dtype=np.float32)
    features = np.eye(12, dtype=np.float32)[[0] * 12]
    params = JaccardParams("cvpr17", 4, 2)
    weights = encode(features, NeighbourLists(Neighbours(indices, similarities=above, least=above[0])), params)
    graph = graph_of_weights(weights, 0.9)
    assert np.isfinite(graph.data).all()
    assert (graph.diagonal() == 0).all()


def naive_by_camera(
    features: FloatArray, camids: npt.NDArray[np.int64], k1: int, k2: int, k1_within: int, k2_within: int
) -> npt.NDArray[np.float64]:
    """Dense float64 [N, N]: reciprocal sets and query expansion within the row's camera, and across cameras."""
    n_rows = len(features)
    similarity_mat = features.astype(np.float64) @ features.astype(np.float64).T
    ranking = [sorted(range(n_rows), key=lambda j, i=i: (j != i, -similarity_mat[i, j], j)) for i in range(n_rows)]
    within = [[j for j in ranking[i] if camids[j] == camids[i]] for i in range(n_rows)]
    across = [[j for j in ranking[i] if camids[j] != camids[i]] for i in range(n_rows)]
    weight_mat = np.zeros((n_rows, n_rows))
    for i in range(n_rows):
        members = [j for j in within[i][: k1_within + 1] if i in within[j][: k1_within + 1]]
        members += [j for j in across[i][: k1 + 1] if i in across[j][: k1 + 1]]
        weight_mat[i, members] = np.exp(-(2 - 2 * similarity_mat[i, members]))
        weight_mat[i] /= weight_mat[i].sum()
    if k2 > 1:
        expanded = [within[i][:k2_within] + across[i][:k2] for i in range(n_rows)]
        weight_mat = np.array([weight_mat[rows].mean(axis=0) for rows in expanded])
    shared = np.minimum(weight_mat[:, None], weight_mat[None]).sum(axis=2)
    return np.maximum(0, 1 - shared / (2 - shared))


@pytest.mark.parametrize(("k1", "k2", "k1_within", "k2_within"), [(20, 4, 5, 2), (4, 1, 3, 2), (3, 3, 1, 1)])
@pytest.mark.parametrize("n_cameras", [1, 2, 6])
def test_camera_variant_equals_the_dense_definition(
    make_features: Callable[..., FloatArray], k1: int, k2: int, k1_within: int, k2_within: int, n_cameras: int
) -> None:
    features = make_features(45, k1)
    camids = np.random.default_rng(k1).integers(n_cameras, size=45)
    graph = jaccard_graph(
        features,
        k1=k1,
        k2=k2,
        max_distance=0.8,
        variant="camera",
        camids=camids,
        device="cpu",
        k1_within=k1_within,
        k2_within=k2_within,
    )
    assert_is_graph_of(graph, naive_by_camera(features, camids, k1, k2, k1_within, k2_within), 0.8)


@pytest.mark.parametrize("variant", [*VARIANTS, "camera"])
def test_rows_can_be_split_between_workers(make_features: Callable[..., FloatArray], variant: str) -> None:
    """Workers that process some rows each, from search to graph, give the same bits as one that processes all."""
    features = make_features(60, 7)
    camids = np.random.default_rng(0).integers(3, size=60)
    params = JaccardParams(variant, 9, 4)  # type: ignore[arg-type]
    whole = jaccard_graph(features, k1=9, k2=4, max_distance=0.8, variant=variant, camids=camids, device="cpu")
    shares = [range(0, 7), range(7, 50), range(50, 60)]
    centre = find_centre(features)
    lists = join_lists([search(features, params, camids, rows=rows, centre=centre, device="cpu") for rows in shares])
    weights = vstack([reciprocal_weights(features, lists, params, rows) for rows in shares], format="csr")
    weights = vstack([expand_queries(weights, lists, params, rows) for rows in shares], format="csr")
    transposed = weights.T.tocsr()
    parts = [graph_of_weights(weights, 0.8, transposed=transposed, rows=rows) for rows in shares]
    assert_same_bits(vstack(parts, format="csr"), whole)


def test_invalid_arguments_are_refused(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(10, 0)
    with pytest.raises(ConfigError, match="Unknown Jaccard variant 'cosine'; use spcl, cvpr17, camera"):
        jaccard_graph(features, k1=3, k2=1, max_distance=0.5, variant="cosine")  # type: ignore[arg-type]
    for k1, k2 in ((0, 1), (3, 0)):
        with pytest.raises(ConfigError, match=f"k1={k1}, k2={k2}"):
            jaccard_graph(features, k1=k1, k2=k2, max_distance=0.5)
    with pytest.raises(ConfigError, match="'camera' needs the camera of each row"):
        jaccard_graph(features, k1=3, k2=1, max_distance=0.5, variant="camera")
    with pytest.raises(DataError, match="row 2"):
        jaccard_graph(np.where(np.arange(10)[:, None] == 2, np.nan, features), k1=3, k2=1, max_distance=0.5)
