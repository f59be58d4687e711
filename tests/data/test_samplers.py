"""The plan of an epoch: which items make its batches, equal for every worker."""

import numpy as np
import pytest

from reid_ray.config import StageConfig
from reid_ray.data.samplers import (
    Pool,
    proxy_numbers,
    sample_epoch,
    sample_shuffled,
    sample_stream,
    worker_columns,
)

PK_SAMPLERS = ("cameras_first", "other_cameras", "camera_proxies", "random_instances")


def plan(labels, camids=None, *, n_pids=4, n_instances=4, iterations=20, seed=0, sampler="cameras_first"):
    """The plan of a single stream."""
    labels = np.asarray(labels)
    camids = np.zeros_like(labels) if camids is None else np.asarray(camids)
    stage = StageConfig(n_pids=n_pids, n_instances=n_instances, iterations=iterations, sampler=sampler)
    return sample_epoch({"train": Pool(labels, camids)}, stage, [np.random.default_rng(seed)])["train"]


def test_batches_hold_p_identities_of_k_images_that_stand_together():
    rng = np.random.default_rng(1)
    labels = rng.integers(-1, 12, 300)
    batches = plan(labels, rng.integers(0, 4, 300))
    assert batches.shape == (20, 16)
    for batch in batches:
        groups = labels[batch].reshape(4, 4)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == 4
        assert (groups >= 0).all()


@pytest.mark.parametrize("n_clusters", [5, 6, 7])
def test_identities_of_a_batch_are_distinct_where_the_cycle_is_shuffled_inside_it(n_clusters):
    labels = np.repeat(np.arange(n_clusters), 6)
    for batch in plan(labels, iterations=40):
        assert len(set(labels[batch])) == 4


def test_each_cycle_is_shuffled_again():
    labels = np.repeat(np.arange(12), 5)
    cycles = labels[plan(labels, iterations=30)[:, ::4]].reshape(10, 12)
    assert len({tuple(cycle) for cycle in cycles}) == 10


def test_any_image_and_any_camera_may_come():
    labels = np.repeat(np.arange(4), 30)
    camids = np.tile(np.repeat(np.arange(5), 6), 4)
    batches = plan(labels, camids, n_instances=2, iterations=200)
    assert set(batches.ravel()) == set(range(120))


def test_repeats_are_drawn_and_not_one_image_over_and_over():
    most = [
        np.unique(batch, return_counts=True)[1].max() for batch in plan([0, 0, 0, 1, 1, 1], n_pids=2, n_instances=12)
    ]
    assert min(most) < 8


def test_distinct_cameras_come_first():
    labels = np.repeat(np.arange(6), 12)
    camids = np.tile(np.repeat(np.arange(3), 4), 6)
    for batch in plan(labels, camids, n_instances=4):
        for group in batch.reshape(4, 4):
            assert set(camids[group]) == {0, 1, 2}
            assert len(set(group)) == 4  # twelve images: no need to repeat one
    for batch in plan(labels, camids, n_instances=2):
        for group in batch.reshape(4, 2):
            assert len(set(camids[group])) == 2


def test_a_camera_seen_once_is_always_in():
    labels = np.zeros(40, dtype=int)
    labels[20:] = 1
    camids = np.zeros(40, dtype=int)
    camids[[7, 33]] = 1
    for batch in plan(labels, camids, n_pids=2):
        assert {7, 33} <= set(batch)


def test_small_identities_repeat_but_use_all_their_images_first():
    labels = [0, 0, 1, 2, 2, 2, 3, 3, 3, 3]
    for batch in plan(labels):
        for group in batch.reshape(4, 4):
            members = {i for i, label in enumerate(labels) if label == labels[group[0]]}
            assert set(group) == members


def test_all_identities_are_drawn_before_one_comes_again():
    labels = np.repeat(np.arange(12), 5)
    batches = plan(labels, n_pids=4, iterations=3)
    assert sorted(labels[batches[:, ::4]].ravel()) == list(range(12))


@pytest.mark.parametrize("n_clusters", [1, 2, 3, 5, 6])
def test_fewer_identities_than_p_share_the_batch_evenly(n_clusters):
    labels = np.repeat(np.arange(n_clusters), 30)
    for batch in plan(labels, n_pids=8, n_instances=2):
        _, counts = np.unique(labels[batch], return_counts=True)
        assert len(counts) == n_clusters
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == 16


@pytest.mark.parametrize("sampler", [*PK_SAMPLERS, "shuffle"])
def test_no_label_at_all_is_an_error(sampler):
    with pytest.raises(ValueError, match="no item has a label"):
        plan([-1, -1, -1], sampler=sampler)


def test_unknown_cameras_count_as_one():
    plan(np.repeat(np.arange(5), 6), np.full(30, -1))


def test_same_seed_same_plan_other_seed_other_plan():
    labels = np.repeat(np.arange(9), 7)
    assert (plan(labels, seed=3) == plan(labels, seed=3)).all()
    assert (plan(labels, seed=3) != plan(labels, seed=4)).any()


@pytest.mark.parametrize("n_workers", [1, 2, 4, 8])
def test_worker_columns_partition_the_batch_in_order(n_workers):
    columns = np.arange(16)
    parts = [columns[worker_columns(16, rank, n_workers)] for rank in range(n_workers)]
    assert np.concatenate(parts).tolist() == columns.tolist()
    assert len({len(part) for part in parts}) == 1


def mixed_labels(seed=0):
    """Identities of one to nine images in one to three cameras, and outliers."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(9), np.arange(1, 10)), np.full(5, -1)])
    return labels, rng.integers(0, 3, len(labels))


def test_other_cameras_first_an_image_then_others_of_other_cameras():
    labels, camids = mixed_labels()
    drawn = plan(labels, camids, n_instances=3, iterations=60, seed=3, sampler="other_cameras").ravel()
    assert drawn.shape == (60 * 12,)
    seen, place = [], 0
    while place + 3 <= len(drawn):
        anchor = drawn[place]
        own = np.flatnonzero(labels == labels[anchor])
        seen.append(labels[anchor])
        if len(own) == 1:
            place += 1
            continue
        others = drawn[place + 1 : place + 3]
        away = own[camids[own] != camids[anchor]]
        pool = away if len(away) else own[own != anchor]
        assert set(others) <= set(pool)
        assert len(set(others)) == min(2, len(pool))
        place += 3
    assert -1 not in seen
    for cycle in range(len(seen) // 9):  # all identities before one comes again
        assert sorted(seen[9 * cycle : 9 * cycle + 9]) == list(range(9))


def test_camera_proxies_k_images_of_one_identity_in_one_camera():
    labels, camids = mixed_labels()
    groups = plan(labels, camids, n_instances=3, iterations=40, seed=3, sampler="camera_proxies").reshape(-1, 3)
    pairs = {(labels[row], camids[row]) for row in range(len(labels)) if labels[row] >= 0}
    drawn = [{(labels[row], camids[row]) for row in group} for group in groups]
    assert all(len(pair) == 1 for pair in drawn)
    assert set.union(*drawn) == pairs
    for group in groups:
        members = np.flatnonzero((labels == labels[group[0]]) & (camids == camids[group[0]]))
        assert len(set(group)) == min(3, len(members))


def test_proxies_are_numbered_by_identity_and_camera():
    labels, camids = mixed_labels()
    numbers = proxy_numbers(labels, camids)
    assert (numbers[labels == -1] == -1).all()
    known = {}
    for number, label, camid in zip(numbers, labels, camids, strict=True):
        if label != -1:
            assert known.setdefault((label, camid), number) == number
    assert sorted(known.values()) == list(range(len(known)))


def test_random_instances_do_not_look_at_cameras():
    """K of an identity, without repeats while it has enough; a camera seen once comes as rarely as any other image."""
    labels = np.repeat(np.arange(6), 12)
    camids = np.zeros(72, dtype=int)
    camids[::12] = 1
    batches = plan(labels, camids, iterations=600, sampler="random_instances")
    for batch in batches[:50]:
        groups = labels[batch].reshape(4, 4)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == 4
        assert len(set(batch)) == 16
    counts = np.bincount(batches.ravel(), minlength=72)
    expected = 600 * 16 / 72
    assert abs(counts[::12].mean() / expected - 1) < 0.1
    first = plan(labels, camids, iterations=600)
    assert np.bincount(first.ravel())[::12].mean() > 2 * expected, "cameras_first would draw it each time"
    assert (plan(labels, -camids, sampler="random_instances") == plan(labels, camids, sampler="random_instances")).all()


@pytest.mark.parametrize("sampler", PK_SAMPLERS)
def test_samplers_without_cameras(sampler):
    labels, _ = mixed_labels()
    assert plan(labels, np.full(len(labels), -1), n_instances=3, iterations=5, sampler=sampler).shape == (5, 12)


@pytest.mark.parametrize(("n_identities", "n_steps"), [(12, 3), (14, 3), (3, 1)])
@pytest.mark.parametrize("sampler", ["cameras_first", "other_cameras", "random_instances"])
def test_one_pass_over_the_identities(sampler, n_identities, n_steps):
    labels = np.concatenate([np.repeat(np.arange(n_identities), 5), [-1, -1]])
    batches = plan(labels, iterations=None, sampler=sampler)
    assert batches.shape == (n_steps, 16)
    drawn, counts = np.unique(labels[batches], return_counts=True)
    assert len(drawn) == min(n_identities, 4 * n_steps)
    assert len(set(counts)) == 1 or n_identities < 4


def test_one_pass_over_camera_proxies():
    labels, camids = np.repeat(np.arange(4), 6), np.tile([0, 0, 0, 1, 1, 1], 4)
    batches = plan(labels, camids, iterations=None, sampler="camera_proxies")
    assert batches.shape == (2, 16)
    assert len({(labels[row], camids[row]) for row in batches.ravel()}) == 8


def test_a_shuffle_is_one_pass_over_all_labelled_items():
    labels = np.array([3, -1, 0, 0, -1, 7, 7, 7, 1, 2, 3, 0])
    batches = plan(labels, n_pids=2, n_instances=2, iterations=None, sampler="shuffle")
    assert batches.shape == (2, 4)
    rows = batches.ravel()
    assert len(set(rows)) == 8, "two of the ten labelled items are left over"
    assert (labels[rows] != -1).all()
    assert (plan(labels, n_pids=2, n_instances=2, iterations=None, sampler="shuffle", seed=1) != batches).any()
    assert plan(labels, n_pids=6, n_instances=2, iterations=None, sampler="shuffle").shape == (1, 12)


def test_items_in_random_order_come_equally_often():
    rows = np.array([2, 3, 5, 7, 11, 13, 17])
    batches = sample_shuffled(rows, 4, 14, np.random.default_rng(0))
    assert batches.shape == (14, 4)
    assert np.bincount(batches.ravel())[rows].tolist() == [8] * 7
    assert sorted(batches.ravel()[:7]) == rows.tolist()
    assert batches.ravel()[:7].tolist() != batches.ravel()[7:14].tolist()


def test_a_stream_without_identities_is_shuffled_whatever_the_sampler():
    labels = np.where(np.arange(20) < 15, 0, -1)
    pool = Pool(labels, np.zeros(20, dtype=int), identities=False)
    for sampler in (*PK_SAMPLERS, "shuffle"):
        stage = StageConfig(n_pids=3, n_instances=5, iterations=2, sampler=sampler)
        rows = sample_stream(pool, stage, 2, np.random.default_rng(0))
        assert [sorted(row) for row in rows] == [list(range(15))] * 2


def test_the_first_stream_sets_the_length_of_one_pass():
    """The other starts again where it is shorter, and is left early where it is longer."""
    stage = StageConfig(n_pids=2, n_instances=2, iterations=None)
    first = Pool(np.repeat(np.arange(8), 3), np.zeros(24, dtype=int))
    for n_others in (4, 40):
        others = Pool(np.zeros(n_others, dtype=int), np.zeros(n_others, dtype=int), identities=False)
        rngs = [np.random.default_rng(number) for number in (0, 1)]
        plans = sample_epoch({"train": first, "target": others}, stage, rngs)
        assert list(plans) == ["train", "target"]
        assert [plans[name].shape for name in plans] == [(4, 4)] * 2
        assert len(set(plans["target"].ravel())) == min(n_others, 16)
    fixed = sample_epoch({"train": first, "target": others}, stage.model_copy(update={"iterations": 9}), rngs)
    assert [fixed[name].shape for name in fixed] == [(9, 4)] * 2


def test_streams_draw_with_generators_of_their_own():
    stage = StageConfig(n_pids=2, n_instances=2, iterations=6)
    pool = Pool(np.repeat(np.arange(8), 3), np.zeros(24, dtype=int))
    plans = sample_epoch({"a": pool, "b": pool}, stage, [np.random.default_rng(seed) for seed in (0, 1)])
    alone = sample_epoch({"b": pool}, stage, [np.random.default_rng(1)])
    assert (plans["b"] == alone["b"]).all()
    assert (plans["a"] != plans["b"]).any()


def shared(pools, *, n_pids=4, n_instances=2, iterations=30, seed=0):
    stage = StageConfig(n_pids=n_pids, n_instances=n_instances, iterations=iterations, sampler="shared_identities")
    return sample_epoch(pools, stage, [np.random.default_rng(seed), np.random.default_rng(99)])


def pool_of(labels, table):
    return Pool(np.asarray(labels), np.zeros(len(labels), dtype=int), table=table)


def test_shared_identities_stand_at_the_same_places_of_every_stream():
    """Only identities that both streams have are drawn, all before one comes again."""
    rng = np.random.default_rng(0)
    labels = {"visible": rng.integers(-1, 10, 80), "infrared": rng.integers(2, 14, 70)}
    plans = shared({name: pool_of(values, name) for name, values in labels.items()}, iterations=8)
    first, second = (labels[name][plans[name]] for name in labels)
    assert (first == second).all()
    identities = first[:, ::2]
    assert (first.reshape(8, 4, 2) == identities[:, :, None]).all()
    assert all(sorted(np.concatenate(pair)) == list(range(2, 10)) for pair in identities.reshape(4, 2, 4))


def test_streams_of_one_table_draw_different_items_of_an_identity():
    labels = np.repeat(np.arange(6), 4)
    plans = shared({"anchor": pool_of(labels, "data"), "positive": pool_of(labels, "data")})
    for anchors, positives in zip(*plans.values(), strict=True):
        assert (labels[anchors] == labels[positives]).all()
        assert not set(anchors) & set(positives)
    apart = shared({"anchor": pool_of(labels, "data"), "positive": pool_of(labels, "source")})
    overlaps = [set(a) & set(b) for a, b in zip(apart["anchor"], apart["positive"], strict=True)]
    assert any(overlaps), "the rows of another table are other items"


def test_an_identity_with_too_few_items_for_both_streams_repeats_them():
    """Three items for two streams of two: the second gets the one that is left, twice; of one item, both get it."""
    labels = np.array([0, 0, 0, 1])
    plans = shared({"a": pool_of(labels, "data"), "b": pool_of(labels, "data")}, n_pids=2)
    for first, second in zip(plans["a"], plans["b"], strict=True):
        by_identity = {
            label: (set(first[labels[first] == label]), set(second[labels[second] == label])) for label in (0, 1)
        }
        assert by_identity[1] == ({3}, {3})
        assert len(by_identity[0][0]) == 2
        assert by_identity[0][1] == {0, 1, 2} - by_identity[0][0]


def test_few_shared_identities_fill_the_batch_and_none_is_an_error():
    plans = shared({"a": pool_of([0, 0, 1, 1, 2], "a"), "b": pool_of([2, 1, 1, 5], "b")}, n_pids=4, n_instances=3)
    assert plans["a"].shape == plans["b"].shape == (30, 12)
    labels = np.array([0, 0, 1, 1, 2])[plans["a"]]
    assert all(np.bincount(row)[1:].tolist() == [6, 6] for row in labels)
    with pytest.raises(ValueError, match="the streams a, b have no identity in common"):
        shared({"a": pool_of([0, 1], "a"), "b": pool_of([2, -1], "b")})


@pytest.mark.parametrize(("n_shared", "n_steps"), [(8, 2), (9, 2), (2, 1)])
def test_one_pass_over_shared_identities(n_shared, n_steps):
    labels = np.repeat(np.arange(n_shared), 3)
    plans = shared({"a": pool_of(labels, "a"), "b": pool_of([*labels, 50], "b")}, iterations=None)
    assert plans["a"].shape == plans["b"].shape == (n_steps, 8)
