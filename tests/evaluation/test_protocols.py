from typing import get_args

import numpy as np
import pytest

from reid_ray.config import EvaluationConfig
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.evaluation import (
    PROTOCOLS,
    camera_note,
    evaluable,
    evaluate_distances,
    evaluate_table,
    rank_metrics,
)


def table_of(split, pid=None, camid=None) -> ImageTable:
    return ImageTable.from_columns(
        path=[f"{i}.jpg" for i in range(len(split))], pid=pid, camid=camid, split=split, name="crops"
    )


def unit_features(rng, n: int):
    features = rng.standard_normal((n, 8)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_evaluates_the_rows_of_query_and_gallery_only():
    rng = np.random.default_rng(0)
    split = ["train", "gallery", "query", "gallery", "train", "query", "gallery"]
    table = table_of(split, pid=[1, 1, 1, 2, 2, 2, 1], camid=[0, 1, 0, 1, 0, 0, 2])
    query, gallery = unit_features(rng, 2), unit_features(rng, 3)
    expected = rank_metrics(query, gallery, [1, 2], [1, 2, 1], [0, 0], [1, 1, 2], ap="trapezoid")
    assert evaluate_table(query, gallery, table, ap="trapezoid").as_dict() == expected.as_dict()
    blocks = [(slice(i, i + 1), 1 - query[i : i + 1] @ gallery.T) for i in range(2)]
    assert evaluate_distances(blocks, table, ap="trapezoid").as_dict() == expected.as_dict()


@pytest.mark.parametrize(
    ("split", "pid", "camid", "sentence"),
    [
        (["train"], [1], [0], "no query and no gallery split"),
        (["gallery"], [1], [0], "no query split"),
        (["query"], [1], [0], "no gallery split"),
        (["query", "gallery"], None, [0, 1], "identities of its query images"),
        (["query", "gallery"], [1, -1], [0, 1], "identities of its gallery images"),
        (["query", "gallery"], [1, 2], [0, 1], "no image of a query's identity"),
        (["query", "gallery"], [1, 1], [0, 0], "by another camera"),
    ],
)
def test_says_in_one_sentence_what_is_missing(split, pid, camid, sentence):
    table = table_of(split, pid, camid)
    reason = evaluable(table)
    assert reason is not None
    assert sentence in reason
    assert reason.startswith("crops ")
    with pytest.raises(DataError, match=sentence):
        evaluate_table(np.ones((1, 2)), np.ones((1, 2)), table)
    with pytest.raises(DataError, match=sentence):
        evaluate_distances([(slice(0, 1), np.ones((1, 1)))], table)


@pytest.mark.parametrize("seed", range(40))
def test_evaluable_is_what_rank_metrics_can_do(seed):
    """Small random tables, about half of which have nothing to find."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    split = rng.choice(["train", "query", "gallery"], n).tolist()
    table = table_of(split, rng.integers(-1, 3, n), rng.integers(-1, 2, n))
    query, gallery = table.split("query"), table.split("gallery")
    try:
        rank_metrics(
            np.ones((len(query), 2)),
            np.ones((len(gallery), 2)),
            query.pids,
            gallery.pids,
            query.camids,
            gallery.camids,
        )
    except DataError:
        assert evaluable(table) is not None
    else:
        assert evaluable(table) is None


def test_camera_note():
    split = ["query", "gallery", "gallery", "train"]
    assert camera_note(table_of(split, [1, 1, 2, 1], [0, 1, 2, -1])) is None
    assert "has no cameras" in (camera_note(table_of(split, [1, 1, 2, 1], [-1, -1, -1, 3])) or "")
    assert "1 of 3 images" in (camera_note(table_of(split, [1, 1, 2, 1], [0, -1, 2, 3])) or "")
    assert camera_note(table_of(["train"])) is None


def test_protocols_are_those_that_can_be_configured():
    assert PROTOCOLS.keys() == set(get_args(EvaluationConfig.model_fields["protocol"].annotation))


def test_the_single_query_protocol_is_that_of_the_table():
    rng = np.random.default_rng(0)
    table = table_of(["query", "gallery", "gallery", "query"], pid=[1, 1, 2, 2], camid=[0, 1, 0, 1])
    query, gallery = unit_features(rng, 2), unit_features(rng, 2)
    protocol = PROTOCOLS["single_query"]
    for ap in ("mean", "trapezoid"):
        assert protocol.evaluate(query, gallery, table, ap) == evaluate_table(query, gallery, table, ap=ap).as_dict()
    assert protocol.primary == "mAP"
    assert protocol.evaluable(table) is None
    assert protocol.evaluable(table_of(["train"])) == evaluable(table_of(["train"]))
