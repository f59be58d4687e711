"""`rank_metrics` and `top_matches` against a slow reading of the protocol, image by image."""

import warnings
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from seeds import SEEDS
from sklearn.metrics import average_precision_score

from reid_ray.errors import DataError
from reid_ray.evaluation import rank_metrics, rank_metrics_of_distances, score_queries, top_matches
from reid_ray.types import UNKNOWN

CASES = {
    "plain": {"features": "continuous", "pids": (1, 6), "camids": (0, 4)},
    "ties": {"features": "quantised", "pids": (1, 6), "camids": (0, 4)},
    "all_equal": {"features": "constant", "pids": (1, 6), "camids": (0, 4)},
    "duplicates": {"features": "duplicated", "pids": (1, 6), "camids": (0, 4)},
    "junk_and_distractors": {"features": "quantised", "pids": (-1, 5), "camids": (0, 4)},
    "mostly_without_match": {"features": "quantised", "pids": (1, 40), "camids": (0, 2)},
    "no_cameras": {"features": "quantised", "pids": (-1, 6), "camids": (-1, 0)},
    "some_cameras": {"features": "quantised", "pids": (-1, 6), "camids": (-1, 2)},
    "camera_a_side": {"features": "quantised", "pids": (1, 6), "camids": None},
}
ORACLE_RUNS = list(product(CASES, range(4), ("mean", "trapezoid")))


def random_case(name: str, seed: int, n_query: int = 13, n_gallery: int = 61):
    """Arguments of `rank_metrics`. Quantised features have exact dot products, so ties are ties for all."""
    case = CASES[name]
    rng = np.random.default_rng([seed, *name.encode()])
    n_all = n_query + n_gallery
    if case["features"] == "continuous":
        features = rng.standard_normal((n_all, 16))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    elif case["features"] == "constant":
        features = np.ones((n_all, 4))
    elif case["features"] == "duplicated":
        features = rng.integers(-3, 4, (8, 4))[rng.integers(0, 8, n_all)] / 4
    else:
        features = rng.integers(-1, 2, (n_all, 5)) / 2
    pids = rng.integers(*case["pids"], n_all)
    camids = rng.integers(*case["camids"], n_all) if case["camids"] else np.repeat([0, 1], [n_query, n_gallery])
    features = features.astype(np.float32)
    q, g = slice(None, n_query), slice(n_query, None)
    return features[q], features[g], pids[q], pids[g], camids[q], camids[g]


def slow_ranking(q_feature, gallery, q_pid, g_pids, q_camid, g_camids) -> list[int]:
    kept = []
    for i in range(len(gallery)):
        is_junk = g_pids[i] == -1
        cameras_known = q_camid != -1 and g_camids[i] != -1
        seen_by_same_camera = g_pids[i] == q_pid and cameras_known and g_camids[i] == q_camid
        if not is_junk and not seen_by_same_camera:
            kept.append(i)
    return sorted(kept, key=lambda i: (-float(q_feature.astype(np.float64) @ gallery[i].astype(np.float64)), i))


def slow_scores(hits: list[bool], ap: str) -> tuple[float, int, float]:
    """AP, rank of the first hit, INP. The trapezoid follows the precision from rank to rank, hit or not."""
    n_hits, found, area, old_recall, old_precision = sum(hits), 0, 0.0, 0.0, 1.0
    for rank, hit in enumerate(hits, start=1):
        found += hit
        recall, precision = found / n_hits, found / rank
        if ap == "mean":
            area += hit * precision / n_hits
        else:
            area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    hit_ranks = [rank for rank, hit in enumerate(hits, start=1) if hit]
    return area, hit_ranks[0], n_hits / hit_ranks[-1]


def slow_metrics(query, gallery, q_pids, g_pids, q_camids, g_camids, ap):
    scores = []
    for feature, pid, camid in zip(query, q_pids, q_camids, strict=True):
        ranking = slow_ranking(feature, gallery, pid, g_pids, camid, g_camids)
        hits = [bool(g_pids[i] == pid and pid != -1) for i in ranking]
        if any(hits):
            scores.append(slow_scores(hits, ap))
    return scores


@pytest.mark.parametrize(("name", "seed", "ap"), ORACLE_RUNS)
def test_equals_the_slow_reference(name, seed, ap):
    case = random_case(name, seed)
    expected = slow_metrics(*case, ap)
    assert expected, "a case in which every query is skipped tests nothing"
    aps, first_ranks, inps = map(np.array, zip(*expected, strict=True))

    metrics = rank_metrics(*case, ap=ap)

    assert metrics.mAP == pytest.approx(aps.mean(), abs=1e-12)
    assert metrics.mINP == pytest.approx(inps.mean(), abs=1e-12)
    np.testing.assert_allclose(metrics.cmc, [(first_ranks <= k).mean() for k in range(1, 51)], atol=1e-12)
    assert (metrics.n_queries, metrics.n_skipped) == (len(expected), len(case[0]) - len(expected))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("k", [1, 5, 100])
def test_top_matches_equals_the_head_of_the_reference_ranking(name, k):
    query, gallery, q_pids, g_pids, q_camids, g_camids = case = random_case(name, seed=0)
    matches = top_matches(*case, k=k, chunk=5)
    assert matches.shape == (len(query), k)
    assert matches.dtype == np.int64
    for row in range(len(query)):
        ranking = slow_ranking(query[row], gallery, q_pids[row], g_pids, q_camids[row], g_camids)[:k]
        assert matches[row].tolist() == ranking + [-1] * (k - len(ranking))


@pytest.mark.parametrize("name", ["ties", "junk_and_distractors", "some_cameras", "all_equal"])
@pytest.mark.parametrize("chunk", [1, 2, 12, 13, 1000])
def test_chunk_does_not_change_the_result(name, chunk):
    case = random_case(name, seed=1)
    whole, parts = rank_metrics(*case), rank_metrics(*case, chunk=chunk)
    assert parts.as_dict() == whole.as_dict()
    np.testing.assert_array_equal(parts.cmc, whole.cmc)
    np.testing.assert_array_equal(top_matches(*case, chunk=chunk), top_matches(*case))


def distance_blocks(query, gallery, chunk):
    """1 − cosine, exact wherever the dot products are."""
    for start in range(0, len(query), chunk):
        rows = slice(start, min(start + chunk, len(query)))
        yield rows, 1 - query[rows] @ gallery.T


@pytest.mark.parametrize("name", [name for name in CASES if name != "plain"])
@pytest.mark.parametrize("ap", ["mean", "trapezoid"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_distances_rank_as_the_features_they_come_from(name, ap, chunk):
    query, gallery, *ids = random_case(name, seed=3)
    expected = rank_metrics(query, gallery, *ids, ap=ap)
    metrics = rank_metrics_of_distances(distance_blocks(query, gallery, chunk), *ids, ap=ap)
    assert metrics.as_dict() == expected.as_dict()
    np.testing.assert_array_equal(metrics.cmc, expected.cmc)


def test_distances_may_be_tensors_or_integers_and_are_not_modified():
    query, gallery, *ids = random_case("ties", seed=4)
    (rows, distances), *_ = distance_blocks(query, gallery, len(query))
    expected = rank_metrics(query, gallery, *ids).as_dict()
    distances = 4 * distances + 1
    kept = distances.copy()
    for block in (distances, torch.from_numpy(distances), distances.astype(np.float64), distances.astype(np.uint8)):
        assert rank_metrics_of_distances([(rows, block)], *ids).as_dict() == expected
    np.testing.assert_array_equal(distances, kept)


def test_mismatched_blocks_of_distances_are_refused():
    ids = [1, 2], [1, 2, 1], [0, 0], [1, 1, 1]
    first, second = (slice(0, 1), ones(1, 3)), (slice(1, 2), ones(1, 3))
    assert rank_metrics_of_distances([first, second], *ids).n_queries == 2
    for blocks in ([second, first], [first], [], [first, second, second], [(slice(0, 2), ones(2, 2))]):
        with pytest.raises(ValueError, match="quer"):
            rank_metrics_of_distances(blocks, *ids)
    with pytest.raises(ValueError, match="interpolated"):
        rank_metrics_of_distances([first, second], *ids, ap="interpolated")
    with pytest.raises(DataError, match="queries 1 to 1 hold NaN"):
        rank_metrics_of_distances([first, (slice(1, 2), ones(1, 3) * np.nan)], *ids)
    with pytest.raises(DataError, match="query has 2 images and camids"):
        rank_metrics_of_distances([first, second], [1, 2], [1, 2, 1], [0], [1, 1, 1])
    with pytest.raises(DataError, match="no gallery to search"):
        rank_metrics_of_distances([], [1, 2], [], [0, 0], [])


@settings(max_examples=5)
@given(seed=SEEDS)
def test_mean_ap_is_that_of_scikit_learn_where_nothing_ties(seed):
    query, gallery, q_pids, g_pids, q_camids, g_camids = case = random_case("plain", seed)
    expected = []
    for i in range(len(query)):
        kept = (g_pids != q_pids[i]) | (g_camids != q_camids[i])
        hits = g_pids[kept] == q_pids[i]
        if hits.any():
            expected.append(average_precision_score(hits, gallery[kept] @ query[i]))
    assert rank_metrics(*case).mAP == pytest.approx(np.mean(expected), abs=1e-12)


def test_by_hand():
    """The ranking is stranger, hit, stranger, hit; a closer same-camera image and a junk image go."""
    query = np.array([[1.0, 0.0]])
    cosines = np.array([0.99, 0.98, 0.9, 0.8, 0.7, 0.6])
    gallery = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    ids = ([7], [7, -1, 0, 7, 3, 7], [0], [0, 1, 1, 1, 0, 2])
    metrics = rank_metrics(query, gallery, *ids)
    assert metrics.as_dict() == {
        "mAP": pytest.approx((1 / 2 + 2 / 4) / 2),
        "R1": 0.0,
        "R5": 1.0,
        "R10": 1.0,
        "mINP": pytest.approx(2 / 4),
        "n_queries": 1,
        "n_skipped": 0,
    }
    trapezoid = rank_metrics(query, gallery, *ids, ap="trapezoid")
    assert trapezoid.mAP == pytest.approx(((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    assert top_matches(query, gallery, *ids, k=5).tolist() == [[2, 3, 4, 5, -1]]


def test_a_perfect_ranking_scores_one_in_both_forms():
    features = np.eye(6, dtype=np.float32)
    pids, n = np.arange(6), 6
    for ap in ("mean", "trapezoid"):
        metrics = rank_metrics(features, features, pids, pids, np.zeros(n), np.ones(n), ap=ap)
        assert (metrics.mAP, metrics.mINP, metrics.rank(1)) == (1, 1, 1)
        assert metrics.cmc.shape == (50,)


def test_tensors_arrays_and_read_only_arrays_agree():
    case = random_case("ties", seed=2)
    expected = rank_metrics(*case).as_dict()
    assert rank_metrics(*map(torch.from_numpy, case)).as_dict() == expected
    assert rank_metrics(case[0].astype(np.float64), *case[1:]).as_dict() == expected
    assert rank_metrics(*case[:2], *[ids.tolist() for ids in case[2:]]).as_dict() == expected
    halves = case[0].astype(np.float16), torch.from_numpy(case[1])
    assert rank_metrics(*halves, *case[2:]).as_dict() == expected
    for array in case:
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rank_metrics(*case).as_dict() == expected


def test_float64_separates_what_float32_cannot():
    query = np.array([[1.0, 1e-9]])
    gallery = np.array([[1.0, 0.0], [1.0, 1.0]])
    ids = ([1], [2, 1], [0], [1, 1])
    assert rank_metrics(query, gallery, *ids).rank(1) == 1
    assert rank_metrics(query.astype(np.float32), gallery.astype(np.float32), *ids).rank(1) == 0


def test_autocast_does_not_change_the_ranking():
    case = random_case("plain", seed=3, n_gallery=400)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = rank_metrics(*case).as_dict()
    assert inside == rank_metrics(*case).as_dict()


def test_features_that_still_carry_a_gradient_are_accepted():
    case = [torch.from_numpy(array) for array in random_case("ties", seed=0)]
    assert rank_metrics(case[0].requires_grad_(), *case[1:]).n_queries > 0


def test_score_queries_marks_what_is_skipped():
    features = np.eye(3, dtype=np.float32)
    ids = ([1, UNKNOWN, 3], [1, UNKNOWN, 4], [0, 0, 0], [1, 1, 1])
    scores = score_queries(features, features, *ids)
    assert scores.valid.tolist() == [True, False, False]
    assert np.isnan(scores.ap).tolist() == [False, True, True]
    assert np.isnan(scores.inp).tolist() == [False, True, True]
    assert scores.first_hit.tolist() == [1, 0, 0]
    metrics = rank_metrics(features, features, *ids)
    assert (metrics.n_queries, metrics.n_skipped) == (1, 2)


def ones(*shape: int):
    return np.ones(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((ones(0, 4), ones(2, 4), [], [1, 2], [], [0, 0]), "no query images"),
        ((ones(1, 4), ones(0, 4), [1], [], [0], []), "no gallery to search.*gallery split"),
        ((ones(1, 4), ones(1, 5), [1], [1], [0], [1]), "4 dimensions.*5"),
        ((ones(4), ones(1, 4), [1] * 4, [1], [0] * 4, [1]), "query features have shape"),
        ((ones(2, 4), ones(1, 4), [1], [1], [0, 0], [1]), "query has 2 images and pids of shape"),
        ((ones(1, 4), ones(1, 4), [1], [1], [0], [1, 2]), "gallery has 1 images and camids"),
        ((ones(2, 4), ones(1, 4), [1, 2], [3], [0, 0], [1]), "None of the 2 queries has a match"),
        ((ones(1, 4), ones(1, 4), [1], [1], [0], [0]), "None of the 1 queries"),
        ((ones(1, 4), ones(1, 4), [-1], [-1], [-1], [-1]), "None of the 1 queries"),
    ],
)
def test_invalid_input_is_refused_with_a_reason(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        rank_metrics(*arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_feature_that_is_not_finite_is_named(value):
    gallery = ones(5, 4)
    gallery[3, 1] = value
    with pytest.raises(DataError, match=r"gallery features hold NaN or infinity in 1 of 5 rows.*row 3"):
        rank_metrics(ones(1, 4), gallery, [1], [1] * 5, [0], [1] * 5)


def test_wrong_calls_are_value_errors():
    case = random_case("plain", seed=0)
    for call in (
        lambda: rank_metrics(*case, ap="interpolated"),
        lambda: rank_metrics(*case, chunk=0),
        lambda: top_matches(*case, k=0),
        lambda: rank_metrics(*case).rank(0),
        lambda: rank_metrics(*case).rank(51),
    ):
        with pytest.raises(ValueError):
            call()
