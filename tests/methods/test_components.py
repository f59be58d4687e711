"""What methods are made of: buffers and classifiers that adopt what they load, and features of the global batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_runs import on_workers
from torch import nn

from reid_ray.methods.components import (
    BufferDict,
    Classifiers,
    branch_dims,
    cluster_classifiers,
    embeddings,
    joined_feature,
    mean_distance,
)
from reid_ray.models import Embedding, make_teacher
from reid_ray.training.distributed import DistributedContext


def test_buffers_take_the_dtype_of_the_module_and_numbers_keep_theirs():
    buffers = BufferDict().double()
    rows, labels = np.ones((3, 2), np.float32), np.arange(3)
    buffers.set_arrays(rows=rows, labels=labels)
    buffers.set(mask=torch.tensor([True, False]), scale=torch.tensor(0.5))
    assert {name: buffers[name].dtype for name in ("rows", "labels", "mask", "scale")} == {
        "rows": torch.float64,
        "labels": torch.int64,
        "mask": torch.bool,
        "scale": torch.float64,
    }
    rows[:], labels[:] = 7, 7
    assert buffers["rows"].eq(1).all(), "arrays are copied"
    assert buffers["labels"].tolist() == [0, 1, 2]
    assert "rows" in buffers
    assert "proxies" not in buffers
    assert not any(tensor.requires_grad for tensor in buffers.buffers())


def test_buffers_move_with_their_module_and_are_replaced_in_any_shape():
    network = nn.ModuleDict({"memory": BufferDict()})
    network["memory"].set(rows=torch.ones(3, 2))
    network.double()
    assert network["memory"]["rows"].dtype == torch.float64
    network["memory"].set(rows=torch.ones(5, 4))
    assert network["memory"]["rows"].shape == (5, 4)
    assert network["memory"]["rows"].dtype == torch.float64, "what is set later has the dtype too"


@pytest.mark.parametrize("before", ["empty", "other shapes"])
def test_buffers_adopt_names_and_shapes_on_load(before):
    saved = nn.ModuleDict({"memory": BufferDict().double()})
    saved["memory"].set(rows=torch.randn(4, 2), labels=torch.arange(4))
    assert saved.state_dict().keys() == {"memory.rows", "memory.labels"}
    loaded = nn.ModuleDict({"memory": BufferDict().double()})
    if before == "other shapes":
        loaded["memory"].set(rows=torch.zeros(9, 3), labels=torch.arange(9))
    state = {key: value.clone() for key, value in saved.state_dict().items()}
    loaded.load_state_dict(state)
    for name in ("rows", "labels"):
        assert torch.equal(loaded["memory"][name], saved["memory"][name])
        assert loaded["memory"][name].dtype == saved["memory"][name].dtype
    state["memory.rows"].zero_()
    assert loaded["memory"]["rows"].any(), "what is loaded is a copy"


def test_buffers_load_in_the_dtype_of_the_module():
    saved, loaded = BufferDict().double(), BufferDict()
    saved.set(rows=torch.tensor([1 / 3]))
    loaded.load_state_dict(saved.state_dict())
    assert loaded["rows"].dtype == torch.float32


def test_classifiers_begin_without_classes_and_again_with_any_number():
    classifiers = Classifiers([2, 3]).double()
    assert classifiers.n_classes == 0
    weights = [torch.randn(5, 2), torch.randn(5, 3)]
    before = list(classifiers.weights)
    classifiers.restart(weights)
    assert classifiers.n_classes == 5
    assert all(weight.dtype == torch.float64 and weight.requires_grad for weight in classifiers.weights)
    assert not {id(weight) for weight in before} & {id(weight) for weight in classifiers.weights}
    features = [torch.randn(4, 2).double(), torch.randn(4, 3).double()]
    logits = classifiers(features)
    for found, feature, weight in zip(logits, features, weights, strict=True):
        torch.testing.assert_close(found, feature @ weight.double().t())
    with pytest.raises(ValueError, match="zip"):
        classifiers(features[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classifiers_that_begin_with_the_same_weights_share_no_memory(dtype):
    """Two students, and a teacher, are restarted from the same clusters and then go their own ways."""
    first, second = Classifiers([2]).to(dtype), Classifiers([2]).to(dtype)
    weights = [torch.ones(3, 2)]
    for classifiers in (first, second):
        classifiers.restart(weights)
    with torch.no_grad():
        first.weights[0].zero_()
    assert second.weights[0].eq(1).all()
    assert weights[0].eq(1).all()


def test_classifiers_adopt_their_number_of_classes_on_load():
    saved = nn.ModuleList([Classifiers([2, 3]), Classifiers([2])])
    saved[0].restart([torch.randn(5, 2), torch.randn(5, 3)])
    saved[1].restart([torch.randn(4, 2)])
    loaded = nn.ModuleList([Classifiers([2, 3]), Classifiers([2])])
    loaded[1].restart([torch.zeros(9, 2)])
    loaded.load_state_dict(saved.state_dict())
    assert [classifiers.n_classes for classifiers in loaded] == [5, 4]
    for key, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_classifiers_of_a_teacher_need_no_gradient_whatever_they_load():
    student = Classifiers([2])
    teacher = make_teacher(student)
    student.restart([torch.randn(3, 2)])
    teacher.load_state_dict(student.state_dict())
    assert torch.equal(teacher.weights[0], student.weights[0])
    teacher.restart([torch.randn(6, 2)])
    assert not any(weight.requires_grad for weight in teacher.weights)


class Plain(nn.Module):
    """Feature and pooled feature of an image's first numbers."""

    dim = 2

    def forward(self, images):
        return Embedding(*(images[:, :2] * factor for factor in (1, 2)))


class Branched(nn.Module):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([Plain(), Plain()])

    def forward(self, images):
        return [Embedding(*(images[:, :2] * (10 * branch + part) for part in (1, 2))) for branch in (1, 2)]


@pytest.mark.parametrize(("network", "n_branches"), [(Plain(), 1), (Branched(), 2)])
def test_embeddings_are_those_of_the_global_batch_by_branch(network, n_branches):
    images = torch.arange(24.0).reshape(8, 3)
    alone = embeddings(network, images, DistributedContext())
    assert len(alone) == n_branches == len(branch_dims(network))
    expected = network(images) if n_branches > 1 else [network(images)]
    for found, wanted in zip(alone, expected, strict=True):
        assert torch.equal(found.pooled, wanted.pooled)
        assert torch.equal(found.feature, wanted.feature)
    for together in on_workers(2, lambda context: embeddings(network, context.local_slice(images), context)):
        for found, wanted in zip(together, alone, strict=True):
            assert torch.equal(found.pooled, wanted.pooled)
            assert torch.equal(found.feature, wanted.feature)
    joined = joined_feature(network, images, DistributedContext())
    assert torch.equal(joined, torch.cat([branch.feature for branch in expected], dim=1))
    assert branch_dims(network) == [2] * n_branches


def test_classifiers_of_clusters_are_the_slices_of_their_means():
    centroids = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    first, second = cluster_classifiers(centroids, [2, 3])
    torch.testing.assert_close(first, F.normalize(torch.tensor(centroids[:, :2])))
    torch.testing.assert_close(second, F.normalize(torch.tensor(centroids[:, 2:])))


def test_the_mean_distance_is_that_of_the_joined_features():
    first, second = ([torch.randn(6, 2), torch.randn(6, 3)] for _ in range(2))
    expected = np.mean([np.linalg.norm(a - b) for a, b in zip(torch.cat(first, 1), torch.cat(second, 1), strict=True)])
    assert float(mean_distance(first, second)) == pytest.approx(expected, rel=1e-6)
    first[0].requires_grad_()
    assert not mean_distance(first, second).requires_grad, "it is for the log"
