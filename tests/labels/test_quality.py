"""Scores of a labelling against loops over all pairs, and against scikit-learn."""

from __future__ import annotations

import math
import warnings
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from reid_ray.labels import ground_truth_scores, label_statistics
from reid_ray.types import IntArray

pytestmark = pytest.mark.filterwarnings("error")


def naive_pairwise(labels: IntArray, pids: IntArray) -> tuple[float, float, float]:
    """Precision, recall, F1 over pairs of images of known identity; an outlier is alone in its cluster."""
    true_positives = in_cluster = of_person = 0
    for i, j in combinations(np.flatnonzero(pids != -1), 2):
        together, same = labels[i] == labels[j] != -1, pids[i] == pids[j]
        true_positives += bool(together and same)
        in_cluster += bool(together)
        of_person += bool(same)
    precision = true_positives / in_cluster if in_cluster else 0.0
    recall = true_positives / of_person if of_person else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if true_positives else 0.0


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_images=st.integers(2, 60),
    n_clusters=st.integers(1, 30),
    n_persons=st.integers(1, 30),
)
def test_scores_equal_pairs_and_scikit_learn(seed: int, n_images: int, n_clusters: int, n_persons: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, n_clusters, n_images)
    pids = rng.integers(-1, n_persons, n_images) * 100
    pids[pids < 0] = -1
    scores = ground_truth_scores(labels, pids)
    found = [scores[f"pairwise_{name}"] for name in ("precision", "recall", "f1")]
    assert found == pytest.approx(naive_pairwise(labels, pids), abs=1e-12)
    counted = (labels != -1) & (pids != -1)
    if counted.any():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it takes many classes for a regression
            ari = adjusted_rand_score(pids[counted], labels[counted])
            nmi = normalized_mutual_info_score(pids[counted], labels[counted])
        assert (scores["ari"], scores["nmi"]) == pytest.approx((ari, nmi), abs=1e-12)


def test_perfect_labels() -> None:
    labels = np.array([0, 0, 1, 1, 1, 2, 2])
    scores = ground_truth_scores(labels, np.array([9, 9, 4, 4, 4, 7, 7]))
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))


def test_outliers_lower_recall_but_not_ari() -> None:
    scores = ground_truth_scores(np.array([0, 0, -1, 1, 1]), np.array([3, 3, 3, 5, 5]))
    assert scores["ari"] == scores["nmi"] == scores["pairwise_precision"] == 1
    assert scores["pairwise_recall"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("labels", [[], [-1], [-1] * 30, [0], [0] * 30, list(range(30)), [0, -1]])
@pytest.mark.parametrize("pid", ["one", "each", "unknown"])
def test_degenerate_labels_give_numbers_and_no_warning(labels: list[int], pid: str) -> None:
    pids = {"one": [5] * len(labels), "each": list(range(len(labels))), "unknown": [-1] * len(labels)}[pid]
    scores = ground_truth_scores(np.array(labels, dtype=np.int64), np.array(pids, dtype=np.int64))
    assert set(scores) == {"ari", "nmi", "pairwise_precision", "pairwise_recall", "pairwise_f1"}
    assert all(type(value) is float and math.isfinite(value) and 0 <= value <= 1 for value in scores.values())
    if -1 in labels[:1] or pid == "unknown" or not labels:
        assert set(scores.values()) == {0.0}


def test_pairs_do_not_overflow() -> None:
    """Half a million images: the products in the adjusted Rand index pass 2⁶³."""
    labels = np.repeat(np.arange(2), 250_000)
    assert ground_truth_scores(labels, labels)["ari"] == 1
    assert ground_truth_scores(labels, np.tile([0, 1], 250_000))["ari"] == pytest.approx(0, abs=1e-5)


def test_statistics_of_a_labelling() -> None:
    sizes = [1, 2, 2, 3, 4, 8, 9, 16, 17, 128, 129, 500]
    labels = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), [-1] * 7])
    found = label_statistics(np.random.default_rng(0).permutation(labels))
    assert found == {
        "n_images": sum(sizes) + 7,
        "n_clusters": 12,
        "n_outliers": 7,
        "outlier_share": 7 / (sum(sizes) + 7),
        "size_median": 8.5,
        "size_max": 500,
        "sizes": {
            "1": 1, "2": 2, "3-4": 2, "5-8": 1, "9-16": 2, "17-32": 1, "33-64": 0, "65-128": 1, "129+": 2
        },
    }  # fmt: skip


@pytest.mark.parametrize(("labels", "n_clusters", "share"), [([], 0, 0.0), ([-1, -1], 0, 1.0), ([0, 0, 0], 1, 0.0)])
def test_statistics_of_degenerate_labellings(labels: list[int], n_clusters: int, share: float) -> None:
    found = label_statistics(np.array(labels, dtype=np.int64))
    assert (found["n_clusters"], found["outlier_share"]) == (n_clusters, share)
    assert found["size_max"] == (len(labels) if n_clusters else 0)
    assert sum(found["sizes"].values()) == n_clusters
