"""Cluster-contrast, CAP and SpCL as methods: what the memory is, which loss reads it, and when it moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_methods import in_training, inputs, make_batch, parameters_of, stage_of
from small_runs import METHOD_RUNS, WIDTH

from reid_ray.errors import ConfigError, DataError
from reid_ray.losses import (
    cluster_memory_loss,
    hybrid_memory_loss,
    inter_camera_loss,
    intra_camera_loss,
    memory_groups,
    updated_cluster_memory,
    updated_instance_memory,
    updated_proxies,
)
from reid_ray.methods import build_method
from reid_ray.methods.stage import LabelSpec
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import Labels

N, B, C, D = 24, 16, 4, WIDTH
ROWS = torch.arange(B)


@pytest.fixture
def make(tiny):
    def build(name, *overrides):
        torch.manual_seed(0)
        method = build_method(tiny(*METHOD_RUNS[name], "training.precision=float64", *overrides), DistributedContext())
        method.to(torch.device("cpu"), torch.float64)
        return in_training(method)

    return build


def unit(*shape, seed=0):
    rows = np.random.default_rng(seed).normal(size=shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def pseudo_labels(seed=0):
    """Four clusters in two cameras, and eight outliers; centroids as they come, of norm below 1."""
    labels = np.concatenate([np.arange(C).repeat(4), np.full(8, -1)])
    numbers, cameras = np.tile(np.arange(C), 2), np.repeat([0, 1], C)
    return Labels(0, labels, 0.5 * unit(C, D, seed=seed), unit(2 * C, D, seed=seed + 1), numbers, cameras)


def batch(epoch=0):
    generator = torch.Generator().manual_seed(1)
    views = {"strong": torch.randn(B, 3, 32, 16, generator=generator, dtype=torch.float64)}
    labels, camids = torch.arange(C).repeat_interleave(4), torch.tensor([0, 0, 1, 1] * C)
    return make_batch(inputs(views, labels, camids=camids, rows=ROWS), key=(0, epoch, 0))


def take(method, labels, **others):
    method.on_labels("main", {"train": labels, **others})


def feature_of(method, data, stream="train"):
    """The student's feature of a stream, without moving its BN statistics or anything else."""
    state = {key: value.clone() for key, value in method.student.state_dict().items()}
    with torch.no_grad():
        feature = method.student(data[stream].views["strong"]).feature
    method.student.load_state_dict(state)
    return feature


def one_update(method, data):
    """The only update of a batch, and the memory before and after its step."""
    updates = method.updates("main", data)
    update = next(updates)
    before = {name: tensor.clone() for name, tensor in method.memory.named_buffers()}
    assert list(updates) == []
    return update, before


@pytest.mark.parametrize("mode", ["sequential", "hard", "average"])
def test_cluster_contrast(make, mode):
    method = make("cluster_contrast", f"method.update={mode}", "method.temperature=0.2", "method.momentum=0.3")
    labels, data = pseudo_labels(), batch()
    take(method, labels)
    memory = F.normalize(torch.tensor(labels.centroids).double())
    feature = feature_of(method, data)
    update, before = one_update(method, data)
    torch.testing.assert_close(before["clusters"], memory)
    torch.testing.assert_close(update.loss, cluster_memory_loss(feature, data["train"].labels, memory, temperature=0.2))
    moved = updated_cluster_memory(memory, feature, data["train"].labels, momentum=0.3, mode=mode)
    torch.testing.assert_close(method.memory["clusters"], moved)
    assert not method.memory["clusters"].requires_grad


def test_cap(make):
    method = make("cap", "method.inter_from_epoch=3", "method.weight_inter=0.7", "method.n_negatives=2")
    labels = pseudo_labels()
    take(method, labels)
    proxies = [
        torch.tensor(labels.proxies).double(),
        torch.tensor(labels.proxy_labels),
        torch.tensor(labels.proxy_camids),
    ]
    for epoch in (2, 3):
        data = batch(epoch)
        images = [feature_of(method, data), data["train"].labels, data["train"].camids]
        update, before = one_update(method, data)
        torch.testing.assert_close(before["proxies"], proxies[0])
        expected = intra_camera_loss(*images, *proxies, temperature=0.07)
        if epoch == 3:
            expected = expected + 0.7 * inter_camera_loss(*images, *proxies, temperature=0.07, n_negatives=2)
        assert ("inter" in update.terms) == (epoch == 3)
        torch.testing.assert_close(update.loss, expected)
        proxies[0] = updated_proxies(*images, *proxies, momentum=0.2)
        torch.testing.assert_close(method.memory["proxies"], proxies[0])


def test_cap_without_cameras_says_so(make):
    nothing = np.empty(0, dtype=np.int64)
    blind = replace(pseudo_labels(), proxies=np.empty((0, D), np.float32), proxy_labels=nothing, proxy_camids=nothing)
    with pytest.raises(DataError, match="CAP learns from cameras"):
        take(make("cap"), blind)


def test_spcl(make):
    """The memory is filled once, keeps what the batches gave it, and is what is clustered."""
    method = make("spcl", "method.momentum=0.4")
    assert method.memory_features("main") is None
    labels, data = pseudo_labels(), batch()
    take(method, replace(labels, features=unit(N, D)))
    memory = torch.tensor(unit(N, D)).double()
    torch.testing.assert_close(torch.tensor(method.memory_features("main")).double(), memory, atol=1e-6, rtol=0)
    feature = feature_of(method, data)
    update, before = one_update(method, data)
    groups, sizes = map(torch.tensor, memory_groups(labels.labels))
    expected = hybrid_memory_loss(feature, ROWS, before["rows"], groups, sizes, temperature=0.05)
    torch.testing.assert_close(update.loss, expected)
    moved = updated_instance_memory(before["rows"], feature, ROWS, momentum=0.4)
    torch.testing.assert_close(method.memory["rows"], moved)
    take(method, replace(labels, labels=np.full(N, -1)))  # outliers only: each image for itself
    torch.testing.assert_close(method.memory["rows"], moved)
    update, _ = one_update(method, data)
    assert torch.isfinite(update.loss)


def test_spcl_learns_from_a_source_too(make):
    """One softmax over source identities, clusters and single images; a mean over each of two batches."""
    method = make("spcl-joint", "method.momentum=0.4", "method.temperature=0.3")
    labels, data, means = pseudo_labels(), batch(), 0.3 * unit(3, D, seed=7)
    identities = Labels(0, np.array([2, 0, 1, 2]), means)
    take(method, replace(labels, features=unit(N, D)), source=identities)
    memory = F.normalize(torch.cat([torch.tensor(means), torch.tensor(unit(N, D))]).double())
    torch.testing.assert_close(method.memory["rows"], memory, atol=1e-6, rtol=0)
    np.testing.assert_allclose(method.memory_features("main"), unit(N, D), atol=1e-6)
    pids = torch.tensor([2, 2, 0, 0] * 4)
    images = torch.randn(B, 3, 32, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    data = make_batch(data["train"], source=inputs({"strong": images}, pids, rows=ROWS + 100))
    target, source = feature_of(method, data), feature_of(method, data, "source")  # equal norms as yet
    update, before = one_update(method, data)

    groups = [[0], [1], [2]] + [[3 + 4 * c + i for i in range(4)] for c in range(C)] + [[3 + i] for i in range(16, N)]

    def naive(features, rows):
        losses = []
        for feature, row in zip(F.normalize(features), rows.tolist(), strict=True):
            logits = [sum(feature @ before["rows"][i] for i in group) / len(group) / 0.3 for group in groups]
            own = next(number for number, group in enumerate(groups) if row in group)
            losses.append(torch.logsumexp(torch.stack(logits), 0) - logits[own])
        return torch.stack(losses).mean()

    torch.testing.assert_close(update.terms["source"], naive(source, pids))
    torch.testing.assert_close(update.terms["target"], naive(target, 3 + ROWS))
    torch.testing.assert_close(update.loss, update.terms["source"] + update.terms["target"])
    moved = updated_instance_memory(before["rows"], source, pids, momentum=0.4)
    moved = updated_instance_memory(moved, target, 3 + ROWS, momentum=0.4)
    torch.testing.assert_close(method.memory["rows"], moved)
    take(method, replace(labels, labels=np.full(N, -1)), source=identities)  # later: the memory stays
    torch.testing.assert_close(method.memory["rows"], moved)
    assert method.memory["groups"].tolist() == list(range(3 + N)), "three identities, and each image for itself"
    assert method.memory["sizes"].tolist() == [1] * (3 + N)


def test_spcl_trains_the_norms_of_both_and_what_they_share_once(make):
    method = make("spcl-joint")
    parameters = parameters_of(method)
    trained = {id(parameter) for parameter in parameters}
    assert len(trained) == len(parameters)
    for network in (method.student, method.source):
        own = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
        assert own < trained
    assert stage_of(method).retriever == "student"
    assert method.modules.keys() == {"student", "source", "memory"}
    assert make("spcl").modules.keys() == {"student", "memory"}


def test_spcl_labels_its_streams(make):
    """The target by clusters of the memory, each epoch; the source by its identities, with their means, once."""
    stage = stage_of(make("spcl-joint"))
    clusters = LabelSpec("clusters", frozenset({"features"}), features_from="memory")
    assert stage.streams["train"].labels == clusters
    assert stage.streams["source"].labels == LabelSpec("ground_truth", frozenset({"centroids"}), once=True)
    assert (stage.primary, stage.streams["train"].data, stage.streams["source"].data) == ("train", "data", "source")
    assert stage_of(make("spcl")).streams.keys() == {"train"}


def test_spcl_has_labels_of_now(make):
    with pytest.raises(ConfigError, match="staleness=0"):
        make("spcl", "labels.staleness=1")


def test_spcl_takes_the_source_as_a_teacher_not_as_a_term_of_the_distance(make):
    with pytest.raises(ConfigError, match="source_weight=0"):
        make("spcl-joint", "labels.source_weight=0.1")


@pytest.mark.parametrize("name", ["cluster_contrast", "cap", "spcl"])
def test_one_network_learns_and_is_exported(make, name):
    method = make(name)
    assert stage_of(method).retriever == "student"
    assert list(method.ema_pairs("main")) == []
    take(method, replace(pseudo_labels(), features=unit(N, D)))
    next(method.updates("main", batch(epoch=1))).loss.backward()
    assert all(parameter.grad is not None for parameter in parameters_of(method))


@pytest.mark.parametrize("name", ["cluster_contrast", "cap", "spcl"])
def test_branches_are_joined(make, name):
    """With ABMT's branches the memory is of the concatenated features."""
    from small_runs import BRANCHES

    method = make(name, BRANCHES)
    wide = replace(pseudo_labels(), centroids=unit(C, 2 * D), proxies=unit(2 * C, 2 * D), features=unit(N, 2 * D))
    take(method, wide)
    update, _ = one_update(method, batch())
    assert torch.isfinite(update.loss)
