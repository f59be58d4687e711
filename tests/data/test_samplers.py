"""The plan of an epoch: P×K batches, cameras first, equal for every worker."""

import numpy as np
import pytest

from reid_ray.data.samplers import plan_epoch, plan_images, worker_columns


def plan(labels, camids=None, *, n_pids=4, n_instances=4, iterations=20, seed=0):
    labels = np.asarray(labels)
    camids = np.zeros_like(labels) if camids is None else np.asarray(camids)
    return plan_epoch(
        labels,
        camids,
        n_pids=n_pids,
        n_instances=n_instances,
        iterations=iterations,
        rng=np.random.default_rng(seed),
    )


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
def test_identities_of_a_batch_are_distinct_where_the_deck_is_shuffled_inside_it(n_clusters):
    labels = np.repeat(np.arange(n_clusters), 6)
    for batch in plan(labels, iterations=40):
        assert len(set(labels[batch])) == 4


def test_each_deck_is_shuffled_anew():
    labels = np.repeat(np.arange(12), 5)
    decks = labels[plan(labels, iterations=30)[:, ::4]].reshape(10, 12)
    assert len({tuple(deck) for deck in decks}) == 10


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


def test_all_identities_are_dealt_before_one_comes_again():
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


def test_no_label_at_all_is_an_error():
    with pytest.raises(ValueError, match="no image has a label"):
        plan([-1, -1, -1])


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
    rng = np.random.default_rng(3)
    plan = plan_epoch(labels, camids, n_pids=4, n_instances=3, iterations=60, rng=rng, sampler="other_cameras").ravel()
    assert plan.shape == (60 * 12,)
    seen, place = [], 0
    while place + 3 <= len(plan):
        anchor = plan[place]
        own = np.flatnonzero(labels == labels[anchor])
        seen.append(labels[anchor])
        if len(own) == 1:
            place += 1
            continue
        others = plan[place + 1 : place + 3]
        away = own[camids[own] != camids[anchor]]
        pool = away if len(away) else own[own != anchor]
        assert set(others) <= set(pool)
        assert len(set(others)) == min(2, len(pool))
        place += 3
    assert -1 not in seen
    for deal in range(len(seen) // 9):  # a deck: all identities before one comes again
        assert sorted(seen[9 * deal : 9 * deal + 9]) == list(range(9))


def test_camera_proxies_k_images_of_one_identity_in_one_camera():
    labels, camids = mixed_labels()
    rng = np.random.default_rng(3)
    plan = plan_epoch(labels, camids, n_pids=4, n_instances=3, iterations=40, rng=rng, sampler="camera_proxies")
    groups = plan.reshape(-1, 3)
    pairs = {(labels[row], camids[row]) for row in range(len(labels)) if labels[row] >= 0}
    drawn = [{(labels[row], camids[row]) for row in group} for group in groups]
    assert all(len(pair) == 1 for pair in drawn)
    assert set.union(*drawn) == pairs
    for group in groups:
        members = np.flatnonzero((labels == labels[group[0]]) & (camids == camids[group[0]]))
        assert len(set(group)) == min(3, len(members))


def test_samplers_without_cameras_and_without_labels():
    labels, _ = mixed_labels()
    blind = np.full(len(labels), -1)
    for sampler in ("cameras_first", "other_cameras", "camera_proxies"):
        rng = np.random.default_rng(0)
        plan = plan_epoch(labels, blind, n_pids=4, n_instances=3, iterations=5, rng=rng, sampler=sampler)
        assert plan.shape == (5, 12)
        with pytest.raises(ValueError, match="no image has a label"):
            plan_epoch(blind, blind, n_pids=4, n_instances=3, iterations=5, rng=rng, sampler=sampler)


def test_images_whatever_their_labels_come_equally_often():
    plan = plan_images(7, 4, 14, np.random.default_rng(0))
    assert plan.shape == (14, 4)
    assert np.bincount(plan.ravel()).tolist() == [8] * 7
    assert sorted(plan.ravel()[:7]) == list(range(7))
