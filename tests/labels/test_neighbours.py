"""Nearest neighbours against the reference: a stable sort of each row of the full similarity matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid_ray.errors import ConfigError, DataError
from reid_ray.labels.features import open_features
from reid_ray.labels.neighbours import Neighbours, nearest, nearest_by_camera, reference, similarities_of_pairs
from reid_ray.labels.neighbours.candidates import Search
from reid_ray.labels.neighbours.products import find_centre, prepare, product
from reid_ray.types import FloatArray

pytestmark = pytest.mark.filterwarnings("error")


def test_reference_ranks_as_the_definition_says(make_features: Callable[..., FloatArray]) -> None:
    """The row itself, then by similarity, ties by row number: Python's sort on a few rows."""
    features = make_features(12, 3)
    similarity_mat = reference.similarities(features)
    camids = np.arange(12) % 3
    indices, similarities = reference.nearest(features, 12)
    within, across = reference.nearest_by_camera(features, camids, 4, 12)
    for i in range(12):
        ranking = sorted(range(12), key=lambda j: (j != i, -similarity_mat[i, j], j))
        assert indices[i].tolist() == ranking
        assert similarities[i].tolist() == [similarity_mat[i, j] for j in ranking]
        assert within[0][i].tolist() == [j for j in ranking if camids[j] == camids[i]]
        assert across[0][i].tolist() == [j for j in ranking if camids[j] != camids[i]] + 4 * [-1]


@pytest.mark.parametrize("k", [1, 2, 5, 17, 40, 99])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bf16", [False, True])
def test_equals_the_reference(make_features: Callable[..., FloatArray], k: int, seed: int, bf16: bool) -> None:
    features = make_features(40, seed)
    found = nearest(features, k, least=True, bf16=bf16, device="cpu")
    indices, similarities = reference.nearest(features, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.similarities, similarities, atol=1e-7)
    np.testing.assert_allclose(found.least, reference.least(features), atol=1e-7)
    assert (found.indices.dtype, found.similarities.dtype, found.least.dtype) == (np.int32, np.float32, np.float32)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4, 1e-6])
def test_bfloat16_candidates_miss_no_neighbour_of_nearly_equal_rows(spread: float) -> None:
    """An untrained network puts all images into one corner: bfloat16 cannot separate them, the result must."""
    rng = np.random.default_rng(0)
    features = 1 + spread * rng.normal(size=(900, 48))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    expected = reference.nearest(features, 12)[0]
    np.testing.assert_array_equal(nearest(features, 12, bf16=True, device="cpu").indices, expected)


def test_error_of_products_stays_within_its_bound() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 64)) + rng.normal(size=64)
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    centre = find_centre(features)
    exact = features.astype(np.float64) @ features.astype(np.float64).T
    for bf16, smallest in ((True, 1e-4), (False, 0)):
        operand = prepare(features, centre, bf16=bf16)
        values = product(operand.matrix, operand.matrix, bf16=bf16).numpy() + operand.offsets
        error_mat = values - exact
        error_mat -= error_mat.mean(axis=1, keepdims=True)  # what is common to a row's candidates is left out
        assert (np.abs(error_mat) <= operand.bounds[:, None]).all()
        assert operand.bounds.max() < 0.02
        assert np.abs(error_mat).max() > smallest  # the bound is not tested by exact products


@pytest.mark.parametrize("n_rows", [0, 1, 2, 3])
def test_tiny(make_features: Callable[..., FloatArray], n_rows: int) -> None:
    features = make_features(n_rows, 0)
    found = nearest(features, 30, least=True, device="cpu")
    assert found.indices.tolist() == reference.nearest(features, 30)[0].tolist()
    assert found.similarities.shape == (n_rows, n_rows)
    assert found.least is not None
    assert found.least.shape == (n_rows,)


@pytest.mark.parametrize(("k_within", "k_across"), [(1, 1), (3, 5), (40, 40)])
@pytest.mark.parametrize("n_cameras", [1, 3, 20])
def test_by_camera_equals_the_reference(
    make_features: Callable[..., FloatArray], k_within: int, k_across: int, n_cameras: int
) -> None:
    features = make_features(30, 1)
    camids = np.random.default_rng(0).integers(n_cameras, size=30)
    within, across = nearest_by_camera(features, camids, k_within, k_across, device="cpu")
    expected = reference.nearest_by_camera(features, camids, k_within, k_across)
    for found, (indices, similarities) in zip((within, across), expected, strict=True):
        width = found.indices.shape[1]
        assert (indices[:, width:] == -1).all()
        np.testing.assert_array_equal(found.indices[:, : indices.shape[1]], indices[:, :width])
        np.testing.assert_allclose(found.similarities[:, : indices.shape[1]], similarities[:, :width], atol=1e-7)
        assert (found.indices[:, indices.shape[1] :] == -1).all()


def test_ties_across_the_last_place_go_to_the_lowest_rows() -> None:
    features = np.eye(1, 4, dtype=np.float32).repeat(50, axis=0)
    found = nearest(features, 4, device="cpu")
    assert found.indices[0].tolist() == [0, 1, 2, 3]
    assert found.indices[2].tolist() == [2, 0, 1, 3]
    assert found.indices[49].tolist() == [49, 0, 1, 2]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reid_ray.labels.neighbours.candidates.BLOCK_ROWS", 12)
    monkeypatch.setattr("reid_ray.labels.neighbours.candidates.BLOCK_COLUMNS", 5)
    monkeypatch.setattr("reid_ray.labels.neighbours.products.ROWS_IN_CACHE", 4)
    for module in ("features", "neighbours.candidates", "neighbours.exact"):
        monkeypatch.setattr(f"reid_ray.labels.{module}.READ_ROWS", 7)


def assert_equal(a: Neighbours, b: Neighbours, rows: slice = slice(None)) -> None:
    np.testing.assert_array_equal(a.indices, b.indices[rows])
    np.testing.assert_array_equal(a.similarities.view(np.uint32), b.similarities[rows].view(np.uint32))
    assert a.least is not None
    assert b.least is not None
    np.testing.assert_array_equal(a.least, b.least[rows])


def test_results_do_not_depend_on_blocks_memory_or_ranges(
    make_features: Callable[..., FloatArray], request: pytest.FixtureRequest
) -> None:
    features = make_features(41, 5)
    whole = nearest(features, 6, least=True, device="cpu")
    request.getfixturevalue("small_blocks")
    assert_equal(nearest(features, 6, least=True, device="cpu"), whole)
    assert_equal(nearest(features, 6, least=True, device="cpu", memory_mb=0), whole)
    for rows in (range(0, 13), range(13, 41), range(40, 41), range(5, 5)):
        part = nearest(features, 6, rows=rows, least=True, device="cpu")
        assert_equal(part, whole, slice(rows.start, rows.stop))


class Streamed:
    """Features that are not an array, like those of an actor pool."""

    def __init__(self, features: FloatArray) -> None:
        self._features = features
        self.longest = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._features.shape

    def __getitem__(self, rows: slice) -> FloatArray:
        block = self._features[rows]
        self.longest = max(self.longest, len(block))
        return block


@pytest.mark.usefixtures("small_blocks")
def test_features_are_streamed_in_blocks(make_features: Callable[..., FloatArray], tmp_path: Path) -> None:
    features = make_features(50, 2)
    whole = nearest(features, 6, least=True, device="cpu")
    streamed = Streamed(features)
    assert_equal(nearest(streamed, 6, least=True, device="cpu"), whole)
    pairs = np.random.default_rng(0).integers(50, size=(2, 99)).astype(np.int32)
    np.testing.assert_array_equal(
        similarities_of_pairs(streamed, pairs[0], pairs[1]), similarities_of_pairs(features, pairs[0], pairs[1])
    )
    assert streamed.longest < 50
    np.save(tmp_path / "features.npy", features)
    assert_equal(nearest(open_features(tmp_path / "features.npy"), 6, least=True, device="cpu"), whole)


@pytest.mark.usefixtures("small_blocks")
def test_gpu_path_gives_the_same_result(
    make_features: Callable[..., FloatArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = make_features(60, 4)
    whole = nearest(features, 9, least=True, device="cpu")
    monkeypatch.setattr(Search, "_scan", lambda self, lists, own, symmetric: self._scan_on_device(lists, own))
    monkeypatch.setattr(Search, "_score", Search._score_on_device)
    found = nearest(features, 9, least=True, device="cpu")
    np.testing.assert_array_equal(found.indices, whole.indices)
    np.testing.assert_allclose(found.similarities, whole.similarities, atol=1e-7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"not numpy", "cannot be read"),
        (np.ones(3), "float64"),
        (np.ones((2, 2), int), "int"),
    ],
)
def test_invalid_feature_file_is_named_in_the_error(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "features.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(DataError, match=message) as caught:
        open_features(path)
    assert str(path) in str(caught.value)


def test_any_array_layout_is_accepted_and_not_modified(make_clustered: Callable[..., FloatArray]) -> None:
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
def test_non_finite_row_is_named_in_the_error(make_clustered: Callable[..., FloatArray], bad: float) -> None:
    features = make_clustered(9, 0)
    features[[4, 7], 2] = bad
    with pytest.raises(DataError, match="row 4 is not finite"):
        nearest(features, 3, device="cpu")


def test_unnormalised_row_is_named_in_the_error(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(9, 0)
    features[3] *= 45
    features[5] *= 0.5
    with pytest.raises(DataError, match="row 3 has norm 45"):
        nearest(features, 3, device="cpu")


def test_features_rounded_to_bfloat16_are_accepted(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(50, 0)
    coarse = (features.view(np.uint32) & 0xFFFF0000).view(np.float32)  # cut to bfloat16
    assert nearest(coarse, 3, device="cpu").indices.shape == (50, 3)


def test_non_matrix_is_refused() -> None:
    with pytest.raises(DataError, match=r"matrix \[N, D\].*\[4\]"):
        nearest(np.ones(4, dtype=np.float32), 2, device="cpu")


def test_k_below_one_is_refused(make_clustered: Callable[..., FloatArray]) -> None:
    with pytest.raises(ConfigError, match="k=0"):
        nearest(make_clustered(9, 0), 0, device="cpu")
