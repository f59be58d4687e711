"""People who leave the training split: who they are, what stays where it was, and that the test set is not read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_ray.config import DataConfig, SyntheticConfig, config_hash, load_config
from reid_ray.data import read_dataset
from reid_ray.data.holdout import hold_out, query_rows
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.evaluation.protocols import evaluable
from reid_ray.evaluation.ranking import rank_metrics
from reid_ray.types import UNKNOWN


def random_table(seed: int, *, n_rows: int = 120) -> ImageTable:
    """Rows of all splits, in any order, some of unknown identity or camera."""
    rng = np.random.default_rng(seed)
    return ImageTable.from_columns(
        path=[str(i) for i in range(n_rows)],
        pid=rng.integers(-1, 12, n_rows),
        camid=rng.integers(-1, 3, n_rows),
        split=rng.choice(["train", "query", "gallery"], n_rows, p=[0.7, 0.1, 0.2]).tolist(),
        name="mine",
        extra={"tracklet": rng.integers(0, 99, n_rows)},
    )


def naive_queries(camids: list[int]) -> list[int]:
    """The longest prefix rule, by trying: add the first image of each camera if every query still has a match."""

    def answered(rows: list[int]) -> bool:
        left = [camids[i] for i in range(len(camids)) if i not in rows]
        return all(any(UNKNOWN in (camids[row], other) or camids[row] != other for other in left) for row in rows)

    rows: list[int] = []
    for camid in sorted(set(camids)):
        first = camids.index(camid)
        if answered([*rows, first]):
            rows.append(first)
    return rows


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=8))
def test_queries_equal_trying(camids: list[int]) -> None:
    assert query_rows(camids) == naive_queries(camids)


@pytest.mark.parametrize(
    ("camids", "rows"),
    [
        ([0, 0, 1, 1], [0, 2]),
        ([1, 0, 1, 0], [1, 0]),
        ([0, 1], [0]),  # the other one answers it
        ([0, 0, 0], []),
        ([0], []),
        ([-1, -1, -1], [0]),  # nothing is removed where cameras are not known
        ([-1, 0], [0]),
    ],
)
def test_queries_of_plain_cases(camids: list[int], rows: list[int]) -> None:
    assert query_rows(camids) == rows


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.1, 0.5, 0.9]))
def test_rows_go_where_they_should(seed: int, share: float) -> None:
    table = random_table(seed)
    held = hold_out(table, share)
    train = table.split("train")
    persons = sorted(set(train.pids.tolist()) - {UNKNOWN})
    own = {pid: train.take(np.flatnonzero(train.pids == pid)) for pid in persons}
    matchable = {pid for pid in persons if naive_queries(own[pid].camids.tolist())}
    gone = set(held.split("gallery").pids.tolist())
    assert gone <= matchable
    assert len(gone) == max(1, round(share * len(matchable)))
    for name in ("train", "query", "gallery"):
        part = held.split(name)
        in_order = [train.paths.index(path) for path in part.paths]
        assert in_order == sorted(in_order)
        for column in ("pid", "camid", "tracklet"):
            assert part.arrow[column].to_pylist() == train.take(np.array(in_order)).arrow[column].to_pylist()
    assert sorted(held.paths) == sorted(train.paths)  # each once, and nothing of the table's own query and gallery
    assert not gone & set(held.split("train").pids.tolist())
    for pid in gone:
        expected = {own[pid].paths[row] for row in naive_queries(own[pid].camids.tolist())}
        query = held.split("query")
        assert {path for path, of in zip(query.paths, query.pids.tolist(), strict=True) if of == pid} == expected
    splits = held.arrow["split"].to_pylist()
    assert splits == sorted(splits, key=["train", "query", "gallery"].index)
    assert held.name == "mine-holdout"


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_query_counts(seed: int) -> None:
    held = hold_out(random_table(seed), 0.5)
    assert evaluable(held) is None
    query, gallery = held.split("query"), held.split("gallery")
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(len(part), 4)).astype(np.float32) for part in (query, gallery)]
    features = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in features]
    metrics = rank_metrics(*features, query.pids, gallery.pids, query.camids, gallery.camids)
    assert (metrics.n_queries, metrics.n_skipped) == (len(query), 0)


def test_a_larger_share_holds_out_the_same_people_and_more() -> None:
    table = random_table(0)
    small, large = (set(hold_out(table, share).split("query").pids.tolist()) for share in (0.3, 0.7))
    assert small < large


def test_who_is_held_out_depends_on_nothing_but_the_pids() -> None:
    """Another order of rows, and another process: these are the same people for ever."""
    table = random_table(0)
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    for order in (table, shuffled):
        assert set(hold_out(order, 0.4).split("gallery").pids.tolist()) == {3, 4, 8, 9, 10}


@pytest.mark.parametrize(
    ("columns", "share", "message"),
    [
        ({}, 0.5, r"mine has no identities .*data\.holdout=0"),
        ({"pid": [0, 0, 1, 1], "camid": [0, 0, 1, 1]}, 0.5, r"mine has no identity .* by two cameras"),
        ({"pid": [0, 0, 1, 1], "camid": [0, 1, 0, 1]}, 0.9, r"data\.holdout=0\.9 takes all 2 identities of mine"),
    ],
)
def test_nobody_to_hold_out(columns: dict[str, list[int]], share: float, message: str) -> None:
    table = ImageTable.from_columns(path=["a", "b", "c", "d"], name="mine", **columns)
    with pytest.raises(DataError, match=message):
        hold_out(table, share)


def test_a_dataset_is_read_with_its_holdout() -> None:
    world = SyntheticConfig(n_train_ids=8, n_test_ids=4, n_cameras=3, images_per_id=6)
    whole, held = (read_dataset(DataConfig(synthetic=world, holdout=share)) for share in (0, 0.25))
    assert held.table.arrow.equals(hold_out(whole.table, 0.25).arrow)
    assert len(set(held.query.pids.tolist())) == 2
    assert sorted(held.table.paths) == sorted(whole.train.paths)


def test_the_holdout_is_part_of_what_a_run_computes() -> None:
    assert config_hash(load_config("demo")) != config_hash(load_config("demo", ["data.holdout=0.2"]))
