"""The MARS protocol against a loop over rankings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reid_ray.errors import DataError
from reid_ray.evaluation import mars, rank_metrics


def naive_mars(query, gallery, q_pids, g_pids, q_camids, g_camids):
    """(mAP, R1, number of queries): query by query, over lists."""
    precisions, first = [], []
    for q in range(len(query)):
        if q_pids[q] <= 0:
            continue
        left = [
            g
            for g in range(len(gallery))
            if g_pids[g] != -1 and not (g_pids[g] == q_pids[q] and g_camids[g] == q_camids[q])
        ]
        left.sort(key=lambda g: -float(query[q] @ gallery[g]))
        hits = [rank for rank, g in enumerate(left, start=1) if g_pids[g] == q_pids[q]]
        if hits:
            precisions.append(np.mean([n / rank for n, rank in enumerate(hits, start=1)]))
            first.append(hits[0] == 1)
    return np.mean(precisions), np.mean(first), len(first)


def unit(rng, n: int):
    features = rng.standard_normal((n, 6))
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, list], ids=["NumPy", "PyTorch", "list"])
def test_equals_a_loop(kind):
    """With junk, distractors, queries that are distractors, and queries that are in the gallery too."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        gallery, g_pids, g_camids = unit(rng, 30), rng.integers(-1, 4, 30), rng.integers(0, 3, 30)
        rows = rng.choice(30, 8, replace=False)
        ids = [kind(each.tolist()) for each in (g_pids[rows], g_pids, g_camids[rows], g_camids)]
        found = mars(gallery[rows], gallery, *ids)
        expected = naive_mars(gallery[rows], gallery, g_pids[rows], g_pids, g_camids[rows], g_camids)
        assert (found.mAP, found.rank(1), found.n_queries) == pytest.approx(expected)
        assert found.n_queries + found.n_skipped == 8


def test_a_query_does_not_find_itself_but_those_by_other_cameras():
    features = np.eye(3)
    gallery = np.array([features[0], features[1], (features[0] + features[1]) / np.sqrt(2)])
    found = mars(gallery[:2], gallery, [5, 5], [5, 5, 0], [0, 1], [0, 1, 2])
    # Left for the first query: the other query, at a right angle, and a distractor, which is nearer.
    assert (found.rank(1), found.rank(2), found.mAP) == (0, 1, 0.5)


def test_distractors_stay_and_are_no_match_and_junk_goes():
    query, gallery = np.array([[1.0, 0]]), np.array([[1.0, 0], [0.9, 0.1], [0, 1]])
    assert mars(query, gallery, [3], [0, 3, 3], [0], [1, 1, 1]).rank(1) == 0
    assert mars(query, gallery, [3], [-1, 3, 3], [0], [1, 1, 1]).rank(1) == 1
    # Pid 0 is no person: its queries have nothing to find, though the single-query protocol would count them.
    assert rank_metrics(query, gallery, [0], [0, 3, 3], [0], [1, 1, 1]).rank(1) == 1
    with pytest.raises(DataError, match="None of the 1 queries has a match"):
        mars(query, gallery, [0], [0, 3, 3], [0], [1, 1, 1])


def test_settings_reach_the_ranking():
    rng = np.random.default_rng(0)
    ids = (rng.integers(1, 4, 9), rng.integers(1, 4, 20), rng.integers(0, 3, 9), rng.integers(0, 3, 20))
    query, gallery = unit(rng, 9), unit(rng, 20)
    expected = rank_metrics(query, gallery, *ids, ap="trapezoid")
    assert mars(query, gallery, *ids, ap="trapezoid", chunk=2).as_dict() == pytest.approx(expected.as_dict())
