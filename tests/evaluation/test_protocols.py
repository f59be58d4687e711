import re
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_ray.config import EvaluationConfig
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.evaluation import (
    PROTOCOLS,
    camera_note,
    evaluable,
    evaluate_distances,
    evaluate_regdb,
    evaluate_sysu_mm01,
    evaluate_table,
    evaluation_note,
    mars,
    protocol_of,
    rank_metrics,
    why_not,
)
from reid_ray.evaluation.trials import sysu_evaluable


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
def test_missing_parts_are_named_in_one_line(split, pid, camid, sentence):
    table = table_of(split, pid, camid)
    reason = evaluable(table)
    assert reason is not None
    assert sentence in reason
    assert reason.startswith("crops ")
    with pytest.raises(DataError, match=sentence):
        evaluate_table(np.ones((1, 2)), np.ones((1, 2)), table)
    with pytest.raises(DataError, match=sentence):
        evaluate_distances([(slice(0, 1), np.ones((1, 1)))], table)


SPLITS = st.sampled_from(["train", "query", "gallery"])


@given(st.lists(st.tuples(SPLITS, st.integers(-1, 2), st.integers(-1, 1)), min_size=2, max_size=6))
def test_evaluable_agrees_with_rank_metrics(rows):
    """Small tables, many of which have nothing to find."""
    table = table_of(*map(list, zip(*rows, strict=True)))
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
        measured = protocol.evaluate(query, gallery, table, EvaluationConfig(ap=ap))
        assert measured == evaluate_table(query, gallery, table, ap=ap).as_dict()
    assert protocol.primary == "mAP"
    assert why_not(table, EvaluationConfig()) is None
    assert why_not(table_of(["train"]), EvaluationConfig()) == evaluable(table_of(["train"]))


def test_notes_are_those_of_the_protocol():
    table = table_of(["query", "gallery"], [1, 1], [-1, -1])
    assert evaluation_note(table, EvaluationConfig()) == camera_note(table)
    assert evaluation_note(table, EvaluationConfig(protocol="regdb")) is None


# Between visible light and infrared


def sysu_table(*rows) -> ImageTable:
    """(split, pid, camera from 1) of each row."""
    split, pid, camera = zip(*rows, strict=True)
    return table_of(list(split), list(pid), [each - 1 for each in camera])


def test_sysu_mm01_takes_its_settings():
    rng = np.random.default_rng(0)
    rows = [("query", pid, camera) for pid in range(4) for camera in (3, 6)]
    rows += [("gallery", pid, camera) for pid in range(4) for camera in (1, 2, 4, 5) for _ in range(3)]
    table = sysu_table(*rows)
    features = unit_features(rng, 8), unit_features(rng, 48)
    found = {}
    for search, shots, trials in (("all", 1, 10), ("indoor", 1, 10), ("all", 2, 3)):
        settings = EvaluationConfig(protocol="sysu_mm01", search=search, shots=shots, trials=trials)
        expected = evaluate_sysu_mm01(*features, table, search=search, shots=shots, n_trials=trials)
        found[search, shots] = protocol_of(settings).evaluate(*features, table, settings)
        assert found[search, shots] == expected.as_dict()
        assert found[search, shots]["R1_std"] == expected.deviation()["R1"]
        assert (found[search, shots]["n_queries"], found[search, shots]["n_skipped"]) == (8, 0)
        assert "n_queries_std" not in found[search, shots]
    assert len({metrics["mAP"] for metrics in found.values()}) == 3


def test_regdb_takes_its_direction():
    rng = np.random.default_rng(0)
    table = table_of(["query"] * 5 + ["gallery"] * 7, pid=[0, 0, 1, 2, 2, 0, 1, 1, 2, 2, 2, 0], camid=[0] * 5 + [1] * 7)
    features = unit_features(rng, 5), unit_features(rng, 7)
    expected = evaluate_regdb(*features, table)
    for direction in ("v2t", "t2v"):
        settings = EvaluationConfig(protocol="regdb", direction=direction)
        assert protocol_of(settings).evaluate(*features, table, settings) == expected[direction].as_dict()
    assert expected["v2t"].n_queries != expected["t2v"].n_queries


@pytest.mark.parametrize(
    ("rows", "search", "sentence"),
    [
        ([("query", 1, 3), ("gallery", 1, 1)], "all", None),
        ([("query", 1, 3), ("gallery", 1, 4)], "all", None),
        ([("query", 1, 3), ("gallery", 1, 4)], "indoor", "gallery of indoor search holds no image of a query's person"),
        ([("query", 1, 3), ("gallery", 1, 2)], "all", "gallery of all search holds no image of a query's person"),
        ([("query", 1, 6), ("gallery", 1, 2)], "indoor", None),
        ([("query", 1, 6), ("gallery", 2, 2)], "all", "no image of a query's person"),
        ([("query", 1, 2), ("gallery", 1, 1)], "all", "query images are by cameras 3, 6 there, and it has some of cam"),
        ([("query", 1, 3), ("gallery", 1, 6)], "all", "gallery images are by cameras 1, 2, 4, 5 there, and it has som"),
        ([("query", 1, 3), ("gallery", 1, 0)], "all", "gallery images are by cameras .* some of no camera"),
        ([("query", 1, 3)], "all", "no gallery split"),
        ([("train", 1, 3)], "all", "no query and no gallery split"),
    ],
)
def test_why_a_table_is_not_sysu_mm01(rows, search, sentence):
    table = sysu_table(*rows)
    reason = why_not(table, EvaluationConfig(protocol="sysu_mm01", search=search))
    if sentence is None:
        assert reason is None
        features = [np.ones((len(table.split(name)), 2)) for name in ("query", "gallery")]
        assert evaluate_sysu_mm01(*features, table, search=search).trials[0].n_queries == 1
    else:
        assert re.search(sentence, reason)
        assert reason.startswith("crops ")


def rows_of(split, cameras):
    return st.lists(st.tuples(st.just(split), st.integers(-1, 3), st.sampled_from(cameras)), min_size=1, max_size=6)


@settings(max_examples=200)
@given(rows_of("query", [3, 6]), rows_of("gallery", [1, 2, 4, 5]))
def test_sysu_evaluable_is_what_sysu_mm01_can_do(query, gallery):
    table, features = sysu_table(*query, *gallery), [np.ones((len(rows), 2)) for rows in (query, gallery)]
    for search in ("all", "indoor"):
        try:
            evaluate_sysu_mm01(*features, table, search=search)
        except DataError:
            assert sysu_evaluable(table, search=search) is not None
        else:
            assert sysu_evaluable(table, search=search) is None


def test_why_a_table_is_not_regdb():
    settings = EvaluationConfig(protocol="regdb")
    assert why_not(table_of(["query", "gallery"], [1, 1], [0, 0]), settings) is None
    assert "no image of a query's person" in why_not(table_of(["query", "gallery"], [1, 2], [0, 1]), settings)
    assert "no query split" in why_not(table_of(["gallery"], [1], [0]), settings)


def test_permutations_that_cannot_be_read_are_an_error_at_once(tmp_path):
    settings = EvaluationConfig(protocol="sysu_mm01", permutations=str(tmp_path / "nowhere.mat"))
    with pytest.raises(DataError, match=r"Cannot read .*nowhere\.mat"):
        why_not(sysu_table(("query", 1, 3), ("gallery", 1, 1)), settings)


# Between tracklets


def video_table(*rows) -> ImageTable:
    """(split, pid, camid, tracklet) of each row."""
    split, pid, camid, tracklet = zip(*rows, strict=True)
    return ImageTable.from_columns(
        path=[f"{i}.jpg" for i in range(len(rows))],
        split=list(split),
        pid=list(pid),
        camid=list(camid),
        name="video",
        extra={"tracklet": list(tracklet)},
    )


def test_the_protocol_of_tracklets_gets_a_row_for_each():
    rng = np.random.default_rng(0)
    table = video_table(*[("query", i % 3, i % 2, i) for i in range(4)], *[("gallery", i % 3, 1, i) for i in range(9)])
    query, gallery = unit_features(rng, 4), unit_features(rng, 9)
    protocol = PROTOCOLS["mars"]
    assert protocol.unit == "tracklet"
    for ap in ("mean", "trapezoid"):
        expected = mars(
            query,
            gallery,
            *(table.split(name).pids for name in ("query", "gallery")),
            *(table.split(name).camids for name in ("query", "gallery")),
            ap=ap,
        )
        assert protocol.evaluate(query, gallery, table, EvaluationConfig(ap=ap)) == expected.as_dict()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("query", 1, 0, 0), ("gallery", 1, 1, 1)], None),
        ([("query", 1, 0, 0), ("gallery", 1, 0, 1)], "no tracklet of a query's person by another camera"),
        ([("query", 0, 0, 0), ("gallery", 0, 1, 1)], "no tracklet of a query's person by another camera"),
        ([("query", 1, 0, 0)], "no gallery split"),
    ],
)
def test_why_tracklets_cannot_be_evaluated(rows, sentence):
    reason = why_not(video_table(*rows), EvaluationConfig(protocol="mars"))
    assert (reason is None) if sentence is None else (sentence in reason)
    plain = table_of(["query", "gallery"], [1, 1], [0, 1])
    assert "no column 'tracklet'" in why_not(plain, EvaluationConfig(protocol="mars"))
