"""Label-free scores against loops over all pairs, against scikit-learn, and on simple cases."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from seeds import SEEDS
from sklearn.metrics import adjusted_rand_score, silhouette_samples

from reid_ray.labels import encoding
from reid_ray.labels.label_free import (
    camera_scores,
    graph_silhouette,
    label_free_scores,
    size_scores,
    stability,
)
from reid_ray.types import IntArray

pytestmark = pytest.mark.filterwarnings("error")


def to_graph(distance_mat: npt.NDArray[np.float32]) -> csr_array:
    rows, columns = np.nonzero(distance_mat < 1)
    return csr_array((distance_mat[rows, columns], (rows, columns)), distance_mat.shape)


def random_distances(n_rows: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Symmetric, with ties, duplicates, and most pairs at distance 1."""
    steps = np.where(rng.random((n_rows, n_rows)) < 0.3, rng.integers(0, 8, (n_rows, n_rows)), 8)
    steps = np.triu(steps, 1)
    return ((steps + steps.T) / 8).astype(np.float32)


def labels_of(rng: np.random.Generator, n_rows: int) -> IntArray:
    """With outliers, gaps, and clusters of one."""
    labels = rng.integers(-1, int(rng.integers(1, 1 + n_rows)), n_rows)
    return np.where(labels < 0, -1, 3 * labels)


@settings(max_examples=80)
@given(seed=SEEDS, n_rows=st.integers(1, 50), rows_per_block=st.sampled_from([7, 10_000]))
def test_silhouette_equals_scikit_learn_on_the_dense_matrix(seed: int, n_rows: int, rows_per_block: int) -> None:
    rng = np.random.default_rng(seed)
    distance_mat, labels = random_distances(n_rows, rng), labels_of(rng, n_rows)
    members = labels != -1
    n_clusters = len(set(labels[members]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "ROWS_PER_BLOCK", rows_per_block)
        found = graph_silhouette(to_graph(distance_mat), labels)
    if n_clusters < 2:
        assert found == 0
    elif n_clusters < members.sum():  # scikit-learn refuses a cluster per row
        dense = distance_mat[np.ix_(members, members)].astype(np.float64)
        samples = silhouette_samples(dense, labels[members], metric="precomputed")
        assert found == pytest.approx(samples.mean(), abs=1e-9)
    else:
        assert found == 0


def test_silhouette_of_right_and_wrong_labels() -> None:
    distance_mat = np.kron(1 - np.eye(2), np.ones((3, 3))).astype(np.float32)
    graph = to_graph(distance_mat)
    assert graph_silhouette(graph, np.array([0, 0, 0, 1, 1, 1])) == 1
    assert graph_silhouette(graph, np.array([0, 0, -1, 1, -1, 1])) == 1
    assert graph_silhouette(graph, np.array([0, 1, 0, 1, 0, 1])) < 0.2


@settings(max_examples=40)
@given(seed=SEEDS, n_rows=st.integers(2, 40), are_alike=st.booleans())
def test_stability_is_the_rand_index_with_outliers_alone(seed: int, n_rows: int, are_alike: bool) -> None:
    rng = np.random.default_rng(seed)
    previous, current = labels_of(rng, n_rows), labels_of(rng, n_rows)
    if are_alike:
        current = np.where(rng.random(n_rows) < 0.8, previous, current)
    alone = [np.where(labels < 0, 1000 + np.arange(n_rows), labels) for labels in (previous, current)]
    degenerate = all(len(set(labels)) == 1 for labels in alone) or all(len(set(labels)) == n_rows for labels in alone)
    expected = 0 if degenerate else adjusted_rand_score(*alone)
    assert stability(previous, current) == pytest.approx(expected, abs=1e-12)
    assert stability(current, previous) == pytest.approx(expected, abs=1e-12)


def test_stability_of_simple_cases() -> None:
    labels = np.array([0, 0, 1, 1, 2, -1])
    assert stability(labels, labels) == 1
    assert stability(labels, np.array([5, 5, 0, 0, 9, -1])) == 1  # other numbers
    assert stability(labels, np.array([0, 0, 1, 1, -1, 2])) == 1  # alone is alone
    assert 0 < stability(labels, np.array([0, 0, -1, -1, 2, -1])) < 1
    assert stability(np.zeros(6), np.zeros(6)) == 0  # nothing to keep
    with pytest.raises(ValueError, match="6 rows cannot be compared with labels of 5 rows"):
        stability(labels, labels[:5])


def naive_cameras(labels: IntArray, camids: IntArray) -> dict[str, float]:
    def diversity(cameras: IntArray) -> float:
        shares = [np.mean(cameras == camera) for camera in set(cameras.tolist())]
        return -sum(share * math.log(share) for share in shares)

    def crossing(cameras: IntArray) -> float:
        return float(np.mean([a != b for a, b in combinations(cameras.tolist(), 2)]))

    counted = (labels != -1) & (camids != -1)
    labels, camids = labels[counted], camids[counted]
    clusters = [camids[labels == cluster] for cluster in set(labels.tolist())]
    scores = {"camera_entropy": 0.0, "camera_mix": 0.0, "cross_camera_share": 0.0}
    if clusters:
        scores["cross_camera_share"] = float(np.mean([len(set(cameras.tolist())) > 1 for cameras in clusters]))
    if len(set(camids.tolist())) > 1:
        mean = sum(len(cameras) * diversity(cameras) for cameras in clusters) / len(camids)
        scores["camera_entropy"] = mean / diversity(camids)
        pairs = [crossing(cameras) for cameras in clusters if len(cameras) > 1]
        scores["camera_mix"] = float(np.mean(pairs)) / crossing(camids) if pairs else 0.0
    return scores


@settings(max_examples=40)
@given(seed=SEEDS, n_rows=st.integers(1, 60), n_cameras=st.integers(1, 8))
def test_camera_scores_equal_loops(seed: int, n_rows: int, n_cameras: int) -> None:
    rng = np.random.default_rng(seed)
    labels, camids = labels_of(rng, n_rows), rng.integers(-1, n_cameras, n_rows)
    assert camera_scores(labels, camids) == pytest.approx(naive_cameras(labels, camids), abs=1e-9)


@pytest.mark.parametrize("size", [2, 3, 20])
def test_camera_mix_of_random_clusters_is_one_whatever_their_size(size: int) -> None:
    """The entropy grows with the size; the mix does not."""
    rng = np.random.default_rng(0)
    camids = rng.choice(6, 6000, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
    scores = camera_scores(np.arange(6000) // size, camids)
    assert scores["camera_mix"] == pytest.approx(1, abs=0.05)
    assert scores["camera_entropy"] == pytest.approx({2: 0.33, 3: 0.51, 20: 0.92}[size], abs=0.03)


def test_camera_scores_of_simple_cases() -> None:
    camids = np.array([1, 2, 3, 1, 2, 3])
    assert camera_scores(camids, camids) == {"camera_entropy": 0, "camera_mix": 0, "cross_camera_share": 0}
    mixed = camera_scores(np.array([0, 0, 0, 1, 1, 1]), camids)
    assert mixed["camera_entropy"] == pytest.approx(1)
    assert mixed["cross_camera_share"] == 1
    assert mixed["camera_mix"] == pytest.approx(1 / (12 / 15))


@settings(max_examples=20)
@given(seed=SEEDS, n_rows=st.integers(1, 60))
def test_size_scores_equal_loops(seed: int, n_rows: int) -> None:
    labels = labels_of(np.random.default_rng(seed), n_rows)
    sizes = [int((labels == cluster).sum()) for cluster in set(labels.tolist()) - {-1}]
    assume(sizes)
    shares = np.array(sizes) / sum(sizes)
    assert size_scores(labels) == pytest.approx(
        {
            "clustered_share": sum(sizes) / len(labels),
            "largest_share": max(sizes) / len(labels),
            "effective_clusters": math.exp(-(shares * np.log(shares)).sum()),
            "size_gini": sum(abs(a - b) for a in sizes for b in sizes) / (2 * len(sizes) * sum(sizes)),
        }
    )


@pytest.mark.parametrize("labels", [[], [-1], [0], [-1] * 6, [0] * 6, list(range(6)), [0, -1, -1], [0, 0, 1]])
@pytest.mark.parametrize("camera", ["none", "unknown", "one", "each"])
@pytest.mark.parametrize("distance", [0, 0.5, 1])
def test_degenerate_labellings_give_numbers_and_no_warning(labels: list[int], camera: str, distance: float) -> None:
    n_rows = len(labels)
    found = np.array(labels, dtype=np.int64)
    distance_mat = np.full((n_rows, n_rows), distance, dtype=np.float32)
    np.fill_diagonal(distance_mat, 0)
    camids = {
        "none": None,
        "unknown": np.full(n_rows, -1),
        "one": np.zeros(n_rows, dtype=np.int64),
        "each": np.arange(n_rows),
    }[camera]
    scores = label_free_scores(found, to_graph(distance_mat), camids, previous=found)
    assert all(type(value) is float and math.isfinite(value) for value in scores.values())
    keys = {"clustered_share", "largest_share", "effective_clusters", "size_gini", "silhouette", "stability"}
    if camera == "each" and n_rows > 1:
        keys |= {"camera_entropy", "camera_mix", "cross_camera_share"}
    assert set(scores) == keys
    if set(labels) <= {-1}:
        assert set(scores.values()) <= {0.0}


def test_scores_that_the_inputs_do_not_allow_are_left_out() -> None:
    assert set(label_free_scores(np.array([0, 0, 1]))) == {
        "clustered_share",
        "largest_share",
        "effective_clusters",
        "size_gini",
    }
