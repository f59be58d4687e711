"""Ids and features as callers have them: read as what they mean, or refused in a sentence; no number is guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from reid_ray.errors import DataError
from reid_ray.evaluation import rank_metrics
from reid_ray.evaluation.ranking import score_queries

RNG = np.random.default_rng(0)
QUERY, GALLERY = (RNG.normal(size=(n, 4)).astype(np.float32) for n in (3, 8))
Q_PIDS, G_PIDS = [1, 2, 3], [1, 2, 3, 1, 2, 3, 0, 9]
Q_CAMIDS, G_CAMIDS = [0, 0, 0], [1] * 8


def metrics(**changed: Any) -> Any:
    arguments = {
        "query": QUERY,
        "gallery": GALLERY,
        "q_pids": Q_PIDS,
        "g_pids": G_PIDS,
        "q_camids": Q_CAMIDS,
        "g_camids": G_CAMIDS,
    }
    return rank_metrics(**{**arguments, **changed})


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        np.array,
        lambda ids: np.array(ids, dtype=np.int32),
        lambda ids: np.array(ids, dtype=float),
        torch.tensor,
        lambda ids: torch.tensor(ids, dtype=torch.float32),
    ],
)
def test_whole_numbers_of_every_kind(convert: Any):
    assert metrics(q_pids=convert(Q_PIDS), g_pids=convert(G_PIDS)).mAP == metrics().mAP


@pytest.mark.parametrize("name", ["q_pids", "g_pids", "q_camids", "g_camids"])
@pytest.mark.parametrize("bad", ["x", 0.5, float("nan"), None])
def test_names_and_fractions_are_refused(name: str, bad: Any):
    n = 3 if name.startswith("q") else 8
    which = "query" if name.startswith("q") else "gallery"
    with pytest.raises(DataError, match=rf"The {which} {name[2:]} must be whole numbers, -1 for unknown; got"):
        metrics(**{name: [bad] * n})


def test_names_as_pids_get_advice():
    with pytest.raises(DataError, match=r"such as np\.str_\('ann'\)\. Map names to numbers with np\.unique\(names"):
        metrics(q_pids=["ann", "bob", "eve"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q_pids": [1, 2]}, r"The query has 3 images and pids of shape \[2\]"),
        ({"g_camids": [[1]] * 8}, r"The gallery has 8 images and camids of shape \[8, 1\]"),
        ({"g_pids": [[1], [2, 3], *[[4]] * 6]}, "The gallery pids are not an array"),
        ({"query": [["a"] * 4] * 3}, "Features must be numbers; got <U1"),
        ({"query": [[1.0], [1.0, 2.0], [3.0]]}, "The features are not an array"),
        ({"query": QUERY[0]}, "The query features have shape"),
        ({"gallery": GALLERY[:0], "g_pids": [], "g_camids": []}, "no gallery to search"),
    ],
)
def test_shapes_that_do_not_fit(changed: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        metrics(**changed)


def test_features_may_be_lists():
    assert metrics(query=QUERY.tolist(), gallery=GALLERY.tolist()).mAP == pytest.approx(metrics().mAP)


# What users report, and is right


def test_unknown_and_distractor_identities_differ():
    """A query of pid −1 is skipped; gallery images of −1 leave the ranking; those of 0 stay and cost precision."""
    gallery = np.eye(4, dtype=np.float32)[[0, 1, 2]]
    query = np.array([[1, 0.9, 0.8, 0], [1, 0, 0, 0]], dtype=np.float32)
    found = rank_metrics(query, gallery, [5, -1], [0, 5, 5], [0, 0], [1, 1, 1])
    assert (found.n_queries, found.n_skipped) == (1, 1)
    assert found.mAP == pytest.approx((1 / 2 + 2 / 3) / 2)
    without = rank_metrics(query, gallery, [5, -1], [-1, 5, 5], [0, 0], [1, 1, 1])
    assert without.mAP == 1


def test_a_query_without_a_match_is_skipped_not_counted_as_zero():
    found = metrics(q_pids=[1, 2, 77])
    assert (found.n_queries, found.n_skipped) == (2, 1)
    scores = score_queries(QUERY, GALLERY, [1, 2, 77], G_PIDS, Q_CAMIDS, G_CAMIDS)
    assert scores.valid.tolist() == [True, True, False]
    assert found.mAP == pytest.approx(scores.ap[:2].mean())


def test_single_camera_cannot_be_evaluated():
    with pytest.raises(DataError, match=r"None of the 3 queries has a match .*by other cameras"):
        metrics(g_camids=[0] * 8)
    assert metrics(q_camids=[-1] * 3, g_camids=[-1] * 8).n_queries == 3
