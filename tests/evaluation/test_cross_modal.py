"""SYSU-MM01's and RegDB's rules against a reading image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.errors import DataError
from reid_ray.evaluation import rank_metrics, regdb, sysu_mm01

CASES = {
    "plain": {"features": "continuous", "n_people": 6, "gallery_cameras": (1, 2, 4, 5)},
    "ties": {"features": "quantised", "n_people": 6, "gallery_cameras": (1, 2, 4, 5)},
    "all_equal": {"features": "constant", "n_people": 6, "gallery_cameras": (1, 2, 4, 5)},
    "indoor": {"features": "quantised", "n_people": 12, "gallery_cameras": (1, 2)},
    "mostly_without_match": {"features": "quantised", "n_people": 60, "gallery_cameras": (1, 2, 4, 5)},
    "only_camera_2": {"features": "quantised", "n_people": 6, "gallery_cameras": (2,)},
    "one_camera_each": {"features": "quantised", "n_people": 6, "gallery_cameras": (4,)},
    "two_people": {"features": "continuous", "n_people": 2, "gallery_cameras": (1, 2)},
    "junk": {"features": "quantised", "n_people": 6, "gallery_cameras": (1, 2, 4, 5), "junk": True},
}


def random_case(name: str, seed: int, n_query: int = 15, n_gallery: int = 40):
    """Arguments of `sysu_mm01`; quantised features have exact products, so ties are ties in any order of summation."""
    case = CASES[name]
    rng = np.random.default_rng([seed, *name.encode()])
    n_all = n_query + n_gallery
    if case["features"] == "continuous":
        features = rng.standard_normal((n_all, 16))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    elif case["features"] == "constant":
        features = np.ones((n_all, 4))
    else:
        features = rng.integers(-1, 2, (n_all, 5)) / 2
    pids = rng.integers(-1 if case.get("junk") else 0, case["n_people"], n_all)
    q_camids, g_camids = rng.choice([3, 6], n_query), rng.choice(case["gallery_cameras"], n_gallery)
    features = features.astype(np.float32)
    return features[:n_query], features[n_query:], pids[:n_query], pids[n_query:], q_camids, g_camids


def slow_scores(case) -> tuple[list[tuple[int, float, float]], int]:
    """(place of the person among people, AP, INP) of each query with a match, and how many have none."""
    query, gallery, q_pids, g_pids, q_camids, g_camids = case
    scores, n_skipped = [], 0
    for feature, pid, camid in zip(query, q_pids, q_camids, strict=True):
        kept = []
        for i in range(len(gallery)):
            if g_pids[i] != -1 and not (camid == 3 and g_camids[i] == 2):
                similarity = float(feature.astype(np.float64) @ gallery[i].astype(np.float64))
                kept.append((-similarity, i))
        ranking = [i for _, i in sorted(kept)]
        hits = [rank for rank, i in enumerate(ranking, start=1) if g_pids[i] == pid and pid != -1]
        if not hits:
            n_skipped += 1
            continue
        people: list[int] = []
        for i in ranking:
            if g_pids[i] not in people:
                people.append(g_pids[i])
        precisions = [n / rank for n, rank in enumerate(hits, start=1)]
        scores.append((people.index(pid) + 1, sum(precisions) / len(hits), len(hits) / hits[-1]))
    return scores, n_skipped


@pytest.mark.parametrize("name", list(CASES))
@settings(max_examples=5)
@given(seed=SEEDS)
def test_sysu_equals_the_slow_reference(name: str, seed: int) -> None:
    case = random_case(name, seed)
    expected, n_skipped = slow_scores(case)
    if name == "only_camera_2":
        assert n_skipped >= sum(case[4] == 3)
    if not expected:
        with pytest.raises(DataError, match="None of the 15 queries has a match"):
            sysu_mm01(*case)
        return
    metrics = sysu_mm01(*case, chunk=4)
    places, ap, inp = (np.array(column) for column in zip(*expected, strict=True))
    assert (metrics.n_queries, metrics.n_skipped) == (len(expected), n_skipped)
    np.testing.assert_allclose(metrics.cmc, [(places <= k).mean() for k in range(1, 51)])
    assert metrics.mAP == pytest.approx(ap.mean())
    assert metrics.mINP == pytest.approx(inp.mean())
    as_tensors = sysu_mm01(*(torch.from_numpy(np.asarray(argument)) for argument in case))
    assert as_tensors.as_dict() == metrics.as_dict()


def test_the_cases_have_all_kinds_of_queries() -> None:
    """Some without a match, some whose person is not first, and some that the rule of camera 2 changes."""
    skipped = {name: slow_scores(random_case(name, 0))[1] for name in CASES}
    assert skipped["plain"] == 0 < skipped["mostly_without_match"]
    assert max(place for place, _, _ in slow_scores(random_case("plain", 0))[0]) > 2
    query, gallery, q_pids, g_pids, q_camids, g_camids = random_case("ties", 0)
    elsewhere = np.where(g_camids == 2, 1, g_camids)
    with_rule = sysu_mm01(query, gallery, q_pids, g_pids, q_camids, g_camids)
    without = sysu_mm01(query, gallery, q_pids, g_pids, q_camids, elsewhere)
    assert with_rule.mAP != without.mAP


def test_one_query_by_hand() -> None:
    """Ranking p7 (camera 2), p7, p7, p5, p9: for camera 6 person 5 is second; camera 3 does not see the first image."""
    gallery = np.array([[1.0, 0], [0.9, 0], [0.8, 0], [0.7, 0], [0.6, 0]])
    g_pids, g_camids = [7, 7, 7, 5, 9], [2, 1, 4, 1, 5]
    query = np.array([[1.0, 0]])
    for camid, ap in ((6, 1 / 4), (3, 1 / 3)):
        metrics = sysu_mm01(query, gallery, [5], g_pids, [camid], g_camids)
        assert (metrics.rank(1), metrics.rank(2)) == (0, 1)
        assert metrics.mAP == pytest.approx(ap)
    both = sysu_mm01(query.repeat(2, 0), gallery, [7, 7], g_pids, [3, 6], g_camids)
    assert both.rank(1) == 1
    assert both.mAP == 1


def test_all_people_of_camera_2_are_ignored_not_only_ones_own() -> None:
    gallery, g_pids, g_camids = np.array([[1.0], [0.5]]), [4, 5], [2, 1]
    assert sysu_mm01(np.ones((1, 1)), gallery, [5], g_pids, [3], g_camids).rank(1) == 1
    assert sysu_mm01(np.ones((1, 1)), gallery, [5], g_pids, [6], g_camids).rank(1) == 0


def test_image_level_cmc_differs() -> None:
    case = random_case("plain", 0)
    image_level = rank_metrics(*case)
    assert sysu_mm01(*case).rank(5) > image_level.rank(5)


def test_fewer_people_than_ranks() -> None:
    metrics = sysu_mm01(*random_case("two_people", 1))
    assert len(metrics.cmc) == 50
    assert metrics.rank(2) == metrics.rank(50) == 1


@settings(max_examples=3)
@given(seed=SEEDS)
@pytest.mark.parametrize("features", ["continuous", "ties"])
def test_regdb_equals_the_slow_reference(features: str, seed: int) -> None:
    query, gallery, q_pids, g_pids, *_ = random_case("plain" if features == "continuous" else "ties", seed)
    metrics = regdb(query, gallery, q_pids, g_pids)
    first, aps = [], []
    for feature, pid in zip(query, q_pids, strict=True):
        order = sorted(range(len(gallery)), key=lambda i: (-float(feature.astype(float) @ gallery[i].astype(float)), i))
        hits = [rank for rank, i in enumerate(order, start=1) if g_pids[i] == pid]
        if hits:
            first.append(hits[0])
            aps.append(sum(n / rank for n, rank in enumerate(hits, start=1)) / len(hits))
    np.testing.assert_allclose(metrics.cmc, [(np.array(first) <= k).mean() for k in range(1, 51)])
    assert metrics.mAP == pytest.approx(np.mean(aps))
    assert metrics.n_queries == len(first)


def test_regdb_removes_nothing() -> None:
    features = np.eye(3)
    assert regdb(features, features, [1, 2, 3], [1, 2, 3]).rank(1) == 1


def test_mismatched_features_are_refused() -> None:
    with pytest.raises(DataError, match="2 dimensions and gallery features 3"):
        sysu_mm01(np.ones((1, 2)), np.ones((1, 3)), [1], [1], [3], [1])
    with pytest.raises(DataError, match="no gallery to search"):
        regdb(np.ones((1, 2)), np.ones((0, 2)), [1], [])
