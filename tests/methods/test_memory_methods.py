"""Cluster-contrast, CAP and SpCL as methods: what the memory is, which loss reads it, and when it moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_runs import METHOD_RUNS

from reid_ray.errors import ConfigError, DataError
from reid_ray.losses import (
    cluster_memory_loss,
    hybrid_memory_loss,
    inter_camera_loss,
    intra_camera_loss,
    updated_cluster_memory,
    updated_instance_memory,
    updated_proxies,
)
from reid_ray.methods import Batch, build_method
from reid_ray.training.world import World
from reid_ray.types import PseudoLabels

N, B, C, D = 24, 16, 4, 512
ROWS = torch.arange(B)


@pytest.fixture
def make(tiny):
    def build(name, *overrides):
        torch.manual_seed(0)
        method = build_method(tiny(*METHOD_RUNS[name], "training.precision=float64", *overrides), World())
        method.to(torch.device("cpu"), torch.float64)
        method.train()
        return method

    return build


def unit(*shape, seed=0):
    rows = np.random.default_rng(seed).normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def pseudo_labels(seed=0):
    """Four clusters in two cameras, and eight outliers; centroids as they come, of norm below 1."""
    labels = np.concatenate([np.arange(C).repeat(4), np.full(8, -1)])
    numbers, cameras = np.tile(np.arange(C), 2), np.repeat([0, 1], C)
    return PseudoLabels(0, labels, 0.5 * unit(C, D, seed=seed), unit(2 * C, D, seed=seed + 1), numbers, cameras)


def batch(epoch=0):
    generator = torch.Generator().manual_seed(1)
    views = {"strong": torch.randn(B, 3, 32, 16, generator=generator, dtype=torch.float64)}
    return Batch(views, torch.arange(C).repeat_interleave(4), torch.tensor([0, 0, 1, 1] * C), ROWS, (0, epoch, 0))


def feature_of(method, data):
    """The student's feature of a batch, without moving its BN statistics or anything else."""
    state = {key: value.clone() for key, value in method.student.state_dict().items()}
    with torch.no_grad():
        feature = method.student(data.views["strong"]).feature
    method.student.load_state_dict(state)
    return feature


def one_update(method, data):
    """The only update of a batch, and the memory before and after its step."""
    updates = method.updates(data)
    update = next(updates)
    before = {name: tensor.clone() for name, tensor in method.memory.named_buffers()}
    assert list(updates) == []
    return update, before


@pytest.mark.parametrize("mode", ["sequential", "hard", "average"])
def test_cluster_contrast(make, mode):
    method = make("cluster_contrast", f"method.update={mode}", "method.temperature=0.2", "method.momentum=0.3")
    labels, data = pseudo_labels(), batch()
    method.begin_epoch(labels)
    memory = F.normalize(torch.tensor(labels.centroids).double())
    feature = feature_of(method, data)
    update, before = one_update(method, data)
    torch.testing.assert_close(before["clusters"], memory)
    torch.testing.assert_close(update.loss, cluster_memory_loss(feature, data.labels, memory, temperature=0.2))
    moved = updated_cluster_memory(memory, feature, data.labels, momentum=0.3, mode=mode)
    torch.testing.assert_close(method.memory["clusters"], moved)
    assert not method.memory["clusters"].requires_grad


def test_cap(make):
    method = make("cap", "method.inter_from_epoch=3", "method.weight_inter=0.7", "method.n_negatives=2")
    labels = pseudo_labels()
    method.begin_epoch(labels)
    proxies = [
        torch.tensor(labels.proxies).double(),
        torch.tensor(labels.proxy_labels),
        torch.tensor(labels.proxy_camids),
    ]
    for epoch in (2, 3):
        data = batch(epoch)
        images = [feature_of(method, data), data.labels, data.camids]
        update, before = one_update(method, data)
        torch.testing.assert_close(before["proxies"], proxies[0])
        expected = intra_camera_loss(*images, *proxies, temperature=0.07)
        if epoch == 3:
            expected = expected + 0.7 * inter_camera_loss(*images, *proxies, temperature=0.07, n_negatives=2)
        assert ("inter" in update.parts) == (epoch == 3)
        torch.testing.assert_close(update.loss, expected)
        proxies[0] = updated_proxies(*images, *proxies, momentum=0.2)
        torch.testing.assert_close(method.memory["proxies"], proxies[0])


def test_cap_without_cameras_says_so(make):
    nothing = np.empty(0, dtype=np.int64)
    blind = replace(pseudo_labels(), proxies=np.empty((0, D), np.float32), proxy_labels=nothing, proxy_camids=nothing)
    with pytest.raises(DataError, match="CAP learns from cameras"):
        make("cap").begin_epoch(blind)


def test_spcl(make):
    """The memory is filled once, keeps what the batches gave it, and is what is clustered."""
    method = make("spcl", "method.momentum=0.4")
    assert method.clustered() is None
    labels, data = pseudo_labels(), batch()
    method.begin_epoch(replace(labels, features=unit(N, D)))
    memory = torch.tensor(unit(N, D)).double()
    torch.testing.assert_close(torch.tensor(method.clustered()).double(), memory, atol=1e-6, rtol=0)
    feature = feature_of(method, data)
    update, before = one_update(method, data)
    expected = hybrid_memory_loss(feature, ROWS, before["rows"], torch.tensor(labels.labels), temperature=0.05)
    torch.testing.assert_close(update.loss, expected)
    moved = updated_instance_memory(before["rows"], feature, ROWS, momentum=0.4)
    torch.testing.assert_close(method.memory["rows"], moved)
    method.begin_epoch(replace(labels, labels=np.full(N, -1)))  # outliers only: each image for itself
    torch.testing.assert_close(method.memory["rows"], moved)
    update, _ = one_update(method, data)
    assert torch.isfinite(update.loss)


def test_spcl_learns_from_a_source_too(make):
    """One softmax over source identities, clusters and single images; a mean over each of two batches."""
    method = make("spcl-joint", "method.momentum=0.4", "method.temperature=0.3")
    labels, data, means = pseudo_labels(), batch(), 0.3 * unit(3, D, seed=7)
    method.begin_epoch(replace(labels, features=unit(N, D), source_centroids=means))
    memory = F.normalize(torch.cat([torch.tensor(means), torch.tensor(unit(N, D))]).double())
    torch.testing.assert_close(method.memory["rows"], memory, atol=1e-6, rtol=0)
    np.testing.assert_allclose(method.clustered(), unit(N, D), atol=1e-6)
    pids = torch.tensor([2, 2, 0, 0] * 4)
    images = torch.randn(B, 3, 32, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    data = replace(data, other=replace(data, views={"strong": images}, labels=pids, rows=ROWS + 100))
    target, source = feature_of(method, data), feature_of(method, data.other)  # equal norms as yet
    update, before = one_update(method, data)

    groups = [[0], [1], [2]] + [[3 + 4 * c + i for i in range(4)] for c in range(C)] + [[3 + i] for i in range(16, N)]

    def naive(features, rows):
        losses = []
        for feature, row in zip(F.normalize(features), rows.tolist(), strict=True):
            logits = [sum(feature @ before["rows"][i] for i in group) / len(group) / 0.3 for group in groups]
            own = next(number for number, group in enumerate(groups) if row in group)
            losses.append(torch.logsumexp(torch.stack(logits), 0) - logits[own])
        return torch.stack(losses).mean()

    torch.testing.assert_close(update.parts["source"], naive(source, pids))
    torch.testing.assert_close(update.parts["target"], naive(target, 3 + ROWS))
    torch.testing.assert_close(update.loss, update.parts["source"] + update.parts["target"])
    moved = updated_instance_memory(before["rows"], source, pids, momentum=0.4)
    moved = updated_instance_memory(moved, target, 3 + ROWS, momentum=0.4)
    torch.testing.assert_close(method.memory["rows"], moved)
    method.begin_epoch(replace(labels, labels=np.full(N, -1), source_centroids=means))  # later: the memory stays
    torch.testing.assert_close(method.memory["rows"], moved)
    assert sorted(set(method.memory["labels"].tolist())) == [-1, 0, 1, 2]


def test_spcl_trains_the_norms_of_both_and_what_they_share_once(make):
    method = make("spcl-joint")
    parameters = method.parameters()["student"]
    trained = {id(parameter) for parameter in parameters}
    assert len(trained) == len(parameters)
    for network in (method.student, method.source):
        own = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
        assert own < trained
    assert method.teacher is method.student
    assert make("spcl").networks.keys() == {"student", "memory"}


def test_spcl_has_labels_of_now(make):
    with pytest.raises(ConfigError, match="staleness=0"):
        make("spcl", "labels.staleness=1")


def test_spcl_takes_the_source_as_a_teacher_not_as_a_term_of_the_distance(make):
    with pytest.raises(ConfigError, match="source_weight=0"):
        make("spcl-joint", "labels.source_weight=0.1")


@pytest.mark.parametrize("name", ["cluster_contrast", "cap", "spcl"])
def test_one_network_learns_and_is_exported(make, name):
    method = make(name)
    assert method.teacher is method.student
    assert method.averages == []
    method.begin_epoch(replace(pseudo_labels(), features=unit(N, D)))
    next(method.updates(batch(epoch=1))).loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters()["student"])


@pytest.mark.parametrize("name", ["cluster_contrast", "cap", "spcl"])
def test_branches_are_joined(make, name):
    """With ABMT's branches the memory is of the concatenated features."""
    from small_runs import BRANCHES

    method = make(name, BRANCHES)
    wide = replace(pseudo_labels(), centroids=unit(C, 2 * D), proxies=unit(2 * C, 2 * D), features=unit(N, 2 * D))
    method.begin_epoch(wide)
    update, _ = one_update(method, batch())
    assert torch.isfinite(update.loss)
