"""The second table's batches: drawn apart, alike for all workers, with identities where they are learned from."""

import numpy as np
import pytest
import torch

from reid_ray.data.readers import read_dataset
from reid_ray.training.others import OtherImages


@pytest.fixture
def config(tiny):
    return tiny("source={layout: synthetic, synthetic: {seed: 7, n_train_ids: 5, images_per_id: 6}}")


def batches(config, *, labelled, columns=slice(0, 16), epoch=0, start=0):
    others = OtherImages(config.source, config, ("strong",), columns, labelled=labelled)
    return list(others.batches(epoch, start))


def test_a_source_that_is_learned_from_comes_by_identity(config):
    pids = read_dataset(config.source).train.pids
    numbers = {pid: number for number, pid in enumerate(sorted(set(pids.tolist())))}
    for rows, labels, _, _ in batches(config, labelled=True):
        assert labels.tolist() == [numbers[pid] for pid in pids.tolist()]
        _, counts = np.unique(labels[rows], return_counts=True)
        assert counts.tolist() == [config.training.n_instances] * config.training.n_pids


def test_other_images_have_no_labels_and_come_in_random_order(config):
    drawn = [(labels, rows) for rows, labels, _, _ in batches(config, labelled=False)]
    assert all((labels == -1).all() for labels, _ in drawn)
    first_30 = np.concatenate([rows for _, rows in drawn])[:30]
    assert sorted(first_30.tolist()) == list(range(30))  # each of the 30 images before any comes again


@pytest.mark.parametrize("labelled", [False, True])
def test_workers_share_a_batch_and_a_resumed_epoch_has_the_same(config, labelled):
    whole = batches(config, labelled=labelled, epoch=1)
    halves = [batches(config, labelled=labelled, columns=half, epoch=1) for half in (slice(0, 8), slice(8, 16))]
    for (rows, _, _, views), *parts in zip(whole, *halves, strict=True):
        assert all(np.array_equal(rows, part[0]) for part in parts)
        assert torch.equal(views["strong"], torch.cat([part[3]["strong"] for part in parts]))
    later = batches(config, labelled=labelled, epoch=1, start=2)
    assert [rows.tolist() for rows, *_ in later] == [rows.tolist() for rows, *_ in whole[2:]]
    other_epoch = batches(config, labelled=labelled, epoch=0)
    assert [rows.tolist() for rows, *_ in other_epoch] != [rows.tolist() for rows, *_ in whole]
