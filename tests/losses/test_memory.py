"""Memories of clusters and of images against loops that go image by image, as the papers describe them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from reid_ray.losses import (
    cluster_memory_loss,
    hybrid_memory_loss,
    memory_groups,
    updated_cluster_memory,
    updated_instance_memory,
)

DTYPES = [torch.float32, torch.float64]
MODES = ["sequential", "hard", "average"]


def unit(feature: Tensor) -> Tensor:
    return feature / feature.norm()


def unit_rows(n_rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    rows = torch.randn(n_rows, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.stack([unit(row) for row in rows]) if n_rows else rows


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}


# Clusters


def naive_cluster_loss(features: Tensor, labels: list[int], memory: Tensor, temperature: float) -> Tensor:
    losses = []
    for feature, label in zip(features, labels, strict=True):
        exponents = torch.stack([(unit(feature) @ row / temperature).exp() for row in memory])
        losses.append(-(exponents[label] / exponents.sum()).log())
    return torch.stack(losses).mean()


def naive_cluster_update(memory: Tensor, features: Tensor, labels: list[int], momentum: float, mode: str) -> Tensor:
    updated = memory.clone()
    if mode == "sequential":
        for feature, label in zip(features, labels, strict=True):
            updated[label] = unit(momentum * updated[label] + (1 - momentum) * unit(feature))
        return updated
    for label in set(labels):
        own = [unit(feature) for feature, other in zip(features, labels, strict=True) if other == label]
        latest = min(own, key=lambda f: float(f @ memory[label])) if mode == "hard" else sum(own) / len(own)
        updated[label] = unit(momentum * memory[label] + (1 - momentum) * latest)
    return updated


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_clusters", [1, 5])
def test_cluster_memory_loss(n_clusters: int, dtype: torch.dtype) -> None:
    features = (4 * unit_rows(7, 0, dtype)).requires_grad_()
    same_features = features.detach().clone().requires_grad_()
    memory = unit_rows(n_clusters, 1, dtype)
    labels = [i % n_clusters for i in range(7)]
    loss = cluster_memory_loss(features, torch.tensor(labels), memory, temperature=0.05)
    expected = naive_cluster_loss(same_features, labels, memory, 0.05)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, **tolerance(dtype))
    torch.testing.assert_close(features.grad, same_features.grad, **tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.8])
@pytest.mark.parametrize("mode", MODES)
def test_cluster_update(mode: str, momentum: float, dtype: torch.dtype) -> None:
    for seed, labels in enumerate(([2, 0, 2, 2, 4, 0, 2, 1], [0, 1, 2, 3], [3, 3, 3], [1])):
        memory, features = unit_rows(5, seed, dtype), 3 * unit_rows(len(labels), 50 + seed, dtype)
        before = memory.clone()
        found = updated_cluster_memory(memory, features, torch.tensor(labels), momentum=momentum, mode=mode)
        expected = naive_cluster_update(memory, features, labels, momentum, mode)
        torch.testing.assert_close(found, expected, **tolerance(dtype))
        torch.testing.assert_close(found.norm(dim=1), torch.ones(5, dtype=dtype))
        absent = [label for label in range(5) if label not in labels]
        assert torch.equal(memory, before)
        assert torch.equal(found[absent], memory[absent])


def test_order_matters_only_where_it_should() -> None:
    memory, features, labels = unit_rows(3, 0), unit_rows(8, 1), torch.tensor([0, 1, 0, 2, 0, 1, 1, 0])
    backwards = torch.arange(8).flip(0)
    for mode in MODES:
        found = updated_cluster_memory(memory, features, labels, momentum=0.2, mode=mode)
        other = updated_cluster_memory(memory, features[backwards], labels[backwards], momentum=0.2, mode=mode)
        assert torch.allclose(found, other, rtol=1e-12, atol=1e-14) == (mode != "sequential")


def test_first_of_equally_hard_images_is_taken() -> None:
    memory = torch.tensor([[1.0, 0.0, 0.0]])
    features = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    found = updated_cluster_memory(memory, features, torch.zeros(4, dtype=torch.int64), momentum=0.5, mode="hard")
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5, 0.0]]) * 2**0.5)


@pytest.mark.parametrize("mode", MODES)
def test_updates_take_no_gradient_and_an_empty_batch_changes_nothing(mode: str) -> None:
    memory, features = unit_rows(3, 0), unit_rows(4, 1).requires_grad_()
    labels = torch.tensor([0, 1, 1, 0])
    assert not updated_cluster_memory(memory, features, labels, momentum=0.2, mode=mode).requires_grad
    found = updated_cluster_memory(memory, features[:0], labels[:0], momentum=0.2, mode=mode)
    assert torch.equal(found, memory)


# Images

HYBRID_LABELS = {
    "clusters and outliers": [0, -1, 1, 0, -1, 1, 1, 2, -1],
    "all outliers": [-1] * 9,
    "one cluster": [0] * 9,
    "gaps and singletons": [5, 9, 5, 2, -1, 2, 2, 7, 7],
}


def groups_of(labels: list[int]) -> tuple[Tensor, Tensor]:
    groups, sizes = memory_groups(np.array(labels))
    return torch.tensor(groups), torch.tensor(sizes)


def naive_hybrid_loss(features: Tensor, rows: list[int], memory: Tensor, labels: list[int], t: float) -> Tensor:
    groups: list[list[int]] = [[row] for row, label in enumerate(labels) if label == -1]
    for label in set(labels) - {-1}:
        groups.append([row for row, other in enumerate(labels) if other == label])
    losses = []
    for feature, row in zip(features, rows, strict=True):
        exponents = [
            (sum(unit(feature) @ memory[member] / t for member in group) / len(group)).exp() for group in groups
        ]
        own = next(number for number, group in enumerate(groups) if row in group)
        losses.append(-(exponents[own] / sum(exponents)).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", list(HYBRID_LABELS))
def test_hybrid_memory_loss(kind: str, dtype: torch.dtype) -> None:
    labels, rows = HYBRID_LABELS[kind], [3, 8, 1, 1, 6, 0]
    features = (3 * unit_rows(6, 0, dtype)).requires_grad_()
    same_features = features.detach().clone().requires_grad_()
    memory = unit_rows(9, 1, dtype)
    loss = hybrid_memory_loss(features, torch.tensor(rows), memory, *groups_of(labels), temperature=0.05)
    expected = naive_hybrid_loss(same_features, rows, memory, labels, 0.05)
    loss.backward()
    expected.backward()
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, expected, **tolerance(dtype))
    torch.testing.assert_close(features.grad, same_features.grad, **tolerance(dtype))


def test_hybrid_gradient_by_finite_differences() -> None:
    features = unit_rows(4, 0).requires_grad_()
    memory, rows, groups = unit_rows(9, 1), torch.tensor([0, 1, 8, 4]), groups_of(HYBRID_LABELS["gaps and singletons"])
    assert torch.autograd.gradcheck(lambda f: hybrid_memory_loss(f, rows, memory, *groups, temperature=0.5), features)


def test_groups_are_clusters_then_single_images() -> None:
    groups, sizes = memory_groups(np.array([4, -1, 4, 0, -1]))
    assert groups.tolist() == [1, 2, 1, 0, 3]
    assert sizes.tolist() == [1, 2, 1, 1]
    assert [part.tolist() for part in memory_groups(np.array([], dtype=np.int64))] == [[], []]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [[4, 0, 4, 4, 2, 0, 4], [3], [0, 1, 2, 3, 4], [2] * 6, []])
def test_instance_update(rows: list[int], dtype: torch.dtype) -> None:
    memory, features = unit_rows(5, 3, dtype), 2 * unit_rows(len(rows), 4, dtype)
    before = memory.clone()
    found = updated_instance_memory(memory, features, torch.tensor(rows, dtype=torch.int64), momentum=0.2)
    expected = naive_cluster_update(memory, features, rows, 0.2, "sequential")
    torch.testing.assert_close(found, expected, **tolerance(dtype))
    assert torch.equal(memory, before)
    assert found.dtype == dtype


def test_autocast_does_not_round_the_similarities() -> None:
    features, memory = unit_rows(6, 0, torch.float32), unit_rows(9, 1, torch.float32)
    rows, groups = torch.tensor([3, 8, 1, 1, 6, 0]), groups_of(HYBRID_LABELS["clusters and outliers"])
    expected = hybrid_memory_loss(features, rows, memory, *groups, temperature=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        found = hybrid_memory_loss(features, rows, memory, *groups, temperature=0.05)
    torch.testing.assert_close(found, expected)
