"""Rankings with ties and unmatched queries, and clusterings with duplicates, against naive oracles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from fuzz_cases.kind import Outcome, expect
from reid_ray.errors import UserError
from reid_ray.evaluation.ranking import score_queries
from reid_ray.labels import dbscan, jaccard_graph


@st.composite
def rankings(draw: st.DrawFn) -> dict[str, Any]:
    bad = draw(st.integers(0, 4)) == 0
    n_queries, n_gallery = draw(st.integers(0 if bad else 1, 4)), draw(st.integers(0 if bad else 1, 7))
    values = st.integers(-2, 2).map(float)  # exact products, many ties
    ids = st.sampled_from((-1, 0, 1, 2, *((0.5, math.nan, "x", None) if bad else ())))

    def features(n: int) -> Any:
        return np.array([[draw(values) for _ in range(2)] for _ in range(n)], np.float32).reshape(n, 2)

    def column(n: int) -> list[Any]:
        return [draw(ids) for _ in range(n)]

    return {
        "query": features(n_queries),
        "gallery": features(n_gallery),
        "q_pids": column(n_queries),
        "g_pids": column(n_gallery),
        "q_camids": column(n_queries),
        "g_camids": column(n_gallery),
    }


def check_ranking(drawn: dict[str, Any], folder: Path) -> Outcome:
    is_good = all(isinstance(value, int) for name in drawn if "ids" in name for value in drawn[name])
    is_good = is_good and bool(len(drawn["query"])) and bool(len(drawn["gallery"]))
    try:
        scores = score_queries(**drawn)
    except UserError:
        expect(not is_good, "a good ranking was refused")
        return "refused"
    if is_good:
        expected = [naive_ap(drawn, q) for q in range(len(drawn["query"]))]
        expect(np.allclose(scores.ap, expected, equal_nan=True), f"{scores.ap} instead of {expected}")
    return "read"


def naive_ap(drawn: dict[str, Any], q: int) -> float:
    """Average precision of one query: sort, walk down, count. NaN where it is not counted."""
    ranked = sorted(range(len(drawn["gallery"])), key=lambda g: (-float(drawn["query"][q] @ drawn["gallery"][g]), g))
    pid, camid = drawn["q_pids"][q], drawn["q_camids"][q]
    hits, rank, total = 0, 0, 0.0
    for g in ranked:
        same = drawn["g_pids"][g] == pid
        if drawn["g_pids"][g] == -1 or (same and camid != -1 and drawn["g_camids"][g] == camid):
            continue
        rank += 1
        if same:
            hits += 1
            total += hits / rank
    return total / hits if hits and pid != -1 else math.nan


@st.composite
def clusterings(draw: st.DrawFn) -> dict[str, Any]:
    n_rows, bad = draw(st.integers(0, 12)), draw(st.booleans())
    angles = st.integers(0, 15).map(lambda i: i * math.pi / 8)  # duplicates and opposites
    features = np.array([(math.cos(a), math.sin(a)) for a in (draw(angles) for _ in range(n_rows))], np.float32)
    distances = st.sampled_from((0.0, 0.3, 0.6, 0.9, *((-1.0, 1.0, 1.5, math.nan, math.inf) if bad else ())))
    return {
        "features": features.reshape(n_rows, 2),
        "k1": draw(st.integers(0 if bad else 1, 6)),
        "k2": draw(st.integers(0 if bad else 1, 4)),
        "max_distance": draw(distances),
        "eps": draw(distances),
        "min_samples": draw(st.sampled_from((1, 2, 3, *((0, 2.5) if bad else ())))),
    }


def check_clustering(drawn: dict[str, Any], folder: Path) -> Outcome:
    limit, eps, min_samples = drawn["max_distance"], drawn["eps"], drawn["min_samples"]
    is_good = drawn["k1"] > 0 and drawn["k2"] > 0 and 0 <= limit <= 1 and 0 <= eps <= limit and eps < 1
    is_good = is_good and min_samples in (1, 2, 3)
    try:
        graph = jaccard_graph(
            drawn["features"], k1=drawn["k1"], k2=drawn["k2"], max_distance=limit, variant="spcl", device="cpu"
        )
        labels = dbscan(graph, eps=eps, min_samples=min_samples)
    except UserError:
        expect(not is_good, "a good clustering was refused")
        return "refused"
    expect(is_good, "invalid settings gave a clustering")
    if len(labels):
        dense = np.full(graph.shape, 9.0, np.float32)
        entries = graph.tocoo()
        dense[entries.row, entries.col] = entries.data
        above_zero = np.nextafter(np.float32(eps), np.float32(1)) if eps == 0 else np.float32(eps)
        near = (dense <= np.float32(eps)).astype(np.float32)
        expected = DBSCAN(eps=0.5, min_samples=min_samples, metric="precomputed").fit_predict(1 - near)
        expect(above_zero >= 0 and labels.tolist() == expected.tolist(), f"{labels} instead of {expected}")
    return "read"
