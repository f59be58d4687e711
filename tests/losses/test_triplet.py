"""Triplet losses against loops over all triplets; gradients by autograd of the loops, and by finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reid_ray.losses import hard_pairs, hard_pairs_of_distances, soft_triplet_loss, triplet_loss

LABELS = {
    "equal": [0, 0, 1, 1, 2, 2],
    "ragged and shuffled": [7, 2, 7, 7, 5, 2, 7, 9],
    "singletons": [3, 1, 2],
    "outlier label": [-1, 4, -1, 4],
}


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum().sqrt() if (a != b).any() else (a - b).sum() + 1e-6


def naive_pairs(features: Tensor, labels: list[int]) -> list[tuple[int, int]]:
    """The farthest of the same identity, itself only where alone, and the nearest of the others."""
    pairs = []
    for i, label in enumerate(labels):
        to = [distance(features[i], other).item() for other in features]
        positives = [j for j, other in enumerate(labels) if other == label and j != i] or [i]
        negatives = [j for j, other in enumerate(labels) if other != label]
        pairs.append((max(positives, key=to.__getitem__), min(negatives, key=to.__getitem__)))
    return pairs


def naive_triplet(features: Tensor, labels: list[int], margin: float | None) -> Tensor:
    losses = []
    for anchor, (p, n) in zip(features, naive_pairs(features, labels), strict=True):
        d_ap, d_an = distance(anchor, features[p]), distance(anchor, features[n])
        if margin is None:  # MMT's hard softmax-triplet
            losses.append(-(d_an.exp() / (d_ap.exp() + d_an.exp())).log())
        else:
            losses.append((d_ap - d_an + margin).clamp(min=0))
    return torch.stack(losses).mean()


def naive_soft_triplet(student: Tensor, teacher: Tensor, labels: list[int]) -> Tensor:
    losses = []
    for i, (p, n) in enumerate(naive_pairs(student, labels)):
        shares = []
        for features in (student, teacher):
            d_ap, d_an = distance(features[i], features[p]), distance(features[i], features[n])
            shares.append(d_ap.exp() / (d_ap.exp() + d_an.exp()))
        of_student, of_teacher = shares
        losses.append(-of_teacher * of_student.log() - (1 - of_teacher) * (1 - of_student).log())
    return torch.stack(losses).mean()


def assert_same(loss: Tensor, features: Tensor, expected: Tensor, same_features: Tensor) -> None:
    loss.backward()
    expected.backward()
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if features.dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    assert loss.dtype == features.dtype
    torch.testing.assert_close(loss, expected, **tolerance)
    torch.testing.assert_close(features.grad, same_features.grad, **tolerance)


@pytest.mark.parametrize("kind", list(LABELS))
def test_hard_pairs(kind: str) -> None:
    for seed in range(5):
        features = torch.randn(len(LABELS[kind]), 4, generator=torch.Generator().manual_seed(seed))
        positives, negatives, exist = hard_pairs(features, torch.tensor(LABELS[kind]))
        assert list(zip(positives.tolist(), negatives.tolist(), strict=True)) == naive_pairs(features, LABELS[kind])
        assert exist


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [None, 0.0, 0.3, 2.0])
@pytest.mark.parametrize("kind", list(LABELS))
def test_triplet_loss(kind: str, margin: float | None, dtype: torch.dtype) -> None:
    torch.manual_seed(len(kind))
    features = torch.randn(len(LABELS[kind]), 4, dtype=dtype, requires_grad=True)
    same_features = features.detach().clone().requires_grad_()
    loss = triplet_loss(features, torch.tensor(LABELS[kind]), margin=margin)
    assert_same(loss, features, naive_triplet(same_features, LABELS[kind], margin), same_features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", list(LABELS))
def test_soft_triplet_loss(kind: str, dtype: torch.dtype) -> None:
    """The teacher is of another size, as another branch may be, and its own hardest pairs are others."""
    torch.manual_seed(len(kind))
    labels = torch.tensor(LABELS[kind])
    student = torch.randn(len(labels), 4, dtype=dtype, requires_grad=True)
    same_student = student.detach().clone().requires_grad_()
    teacher = torch.randn(len(labels), 6, dtype=dtype, requires_grad=True)
    if kind == "ragged and shuffled":
        assert naive_pairs(teacher, LABELS[kind]) != naive_pairs(student, LABELS[kind])
    loss = soft_triplet_loss(student, teacher, labels)
    assert_same(loss, student, naive_soft_triplet(same_student, teacher.detach(), LABELS[kind]), same_student)
    assert teacher.grad is None


@pytest.mark.parametrize("kind", ["equal", "ragged and shuffled"])
def test_gradients_by_finite_differences(kind: str) -> None:
    torch.manual_seed(1)
    labels = torch.tensor(LABELS[kind])
    features = torch.randn(len(labels), 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(len(labels), 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: triplet_loss(f, labels, margin=None), features)
    assert torch.autograd.gradcheck(lambda f: triplet_loss(f, labels, margin=1.0), features)
    assert torch.autograd.gradcheck(lambda f: soft_triplet_loss(f, teacher, labels), features)


def test_coincident_features_have_a_finite_gradient() -> None:
    """Collapse: all distances are 0, where the derivative of the square root is infinite."""
    labels = torch.tensor([0, 0, 1, 1])
    features = torch.ones(4, 3, requires_grad=True)
    for loss in (
        triplet_loss(features, labels, margin=None),
        triplet_loss(features, labels, margin=0.3),
        soft_triplet_loss(features, torch.ones(4, 3), labels),
    ):
        (gradient,) = torch.autograd.grad(loss, features)
        assert loss.item() == pytest.approx(0.3 if loss < 0.5 else math.log(2))
        assert not gradient.any()


def test_ties_have_one_value() -> None:
    """Two equally far positives and negatives: whichever is taken, the loss is the same."""
    features = torch.tensor([[0.0, 0], [3, 0], [0, 3], [1, 0], [0, 1]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    torch.testing.assert_close(
        triplet_loss(features, labels, margin=None), naive_triplet(features, labels.tolist(), None)
    )


def test_one_identity_has_no_loss() -> None:
    labels = torch.tensor([4, 4, 4])
    features = torch.randn(3, 5, requires_grad=True)
    assert not hard_pairs(features, labels).exist
    for loss in (
        triplet_loss(features, labels, margin=None),
        triplet_loss(features, labels, margin=0.3),
        soft_triplet_loss(features, torch.randn(3, 5), labels),
    ):
        (gradient,) = torch.autograd.grad(loss, features)
        assert loss.item() == 0
        assert not gradient.any()


def test_large_close_features_keep_their_digits() -> None:
    """At norm 1e4 the products of float32 know a squared distance to about 10 only."""
    torch.manual_seed(0)
    features = 1e4 + 1e-1 * torch.randn(6, 8, dtype=torch.float64).round(decimals=1)
    labels = torch.tensor(LABELS["equal"])
    expected = triplet_loss(features, labels, margin=None)
    found = triplet_loss(features.float(), labels, margin=None)
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("margin", [None, 0.0, 0.3])
@pytest.mark.parametrize("kind", list(LABELS))
def test_variants_of_the_triplet_loss(kind: str, margin: float | None) -> None:
    """AM0BH's table 3: BH, BH1 on the sphere, BHsp with a softplus; and the sums that the papers write."""
    labels = torch.tensor(LABELS[kind])
    for seed in range(3):
        features = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        on_sphere = features / features.norm(dim=1, keepdim=True)
        expected = naive_triplet(on_sphere, labels.tolist(), margin)
        torch.testing.assert_close(triplet_loss(features, labels, margin=margin, normalize=True), expected)
        total = triplet_loss(features, labels, margin=margin, reduction="sum")
        torch.testing.assert_close(total, naive_triplet(features, labels.tolist(), margin) * len(labels))
        smooth = [
            math.log1p(
                math.exp(distance(features[a], features[p]) - distance(features[a], features[n]) + (margin or 0))
            )
            for a, (p, n) in enumerate(naive_pairs(features, labels.tolist()))
        ]
        found = triplet_loss(features, labels, margin=margin, surrogate="softplus")
        assert found.item() == pytest.approx(sum(smooth) / len(smooth))


def test_scaling_the_features_scales_the_distances() -> None:
    """What the normalised softmax cannot feel: AM0BH's reason to add this loss."""
    labels = torch.tensor(LABELS["equal"])
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, scaled = (triplet_loss(factor * features, labels, margin=0.0) for factor in (1, 3))
    torch.testing.assert_close(scaled, 3 * plain)
    torch.testing.assert_close(
        triplet_loss(3 * features, labels, margin=0.3, normalize=True),
        triplet_loss(features, labels, margin=0.3, normalize=True),
    )


def test_hard_pairs_of_any_distances() -> None:
    distances = torch.tensor([[0.0, 5, 2, 1], [5, 0, 3, 4], [2, 3, 0, 9], [1, 4, 9, 0]])
    pairs = hard_pairs_of_distances(distances, torch.tensor([0, 0, 1, 1]))
    assert (pairs.positives.tolist(), pairs.negatives.tolist()) == ([1, 0, 3, 2], [3, 2, 0, 0])
