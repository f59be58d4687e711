"""Triplets across modalities and their loss, by loops over images."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.errors import DataError
from reid_ray.losses.dg_vae import (
    CrossModalTriplets,
    cross_modal_triplet_loss,
    draw_triplets,
    hardest_triplets,
    latent_identity_loss,
)

BATCHES = {
    "the paper's": ([i // 4 % 4 for i in range(32)], [i // 16 for i in range(32)]),
    "mixed and ragged": ([5, 9, 5, 9, 9, 5, 2, 2], [0, 1, 1, 0, 0, 0, 1, 0]),
    "one of each": ([0, 0, 1, 1], [0, 1, 1, 0]),
}


def batch(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    labels, modality = BATCHES[kind]
    return torch.tensor(labels), torch.tensor(modality)


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Euclidean, of the vectors divided by their norms."""
    norms = [math.sqrt(sum(value**2 for value in vector.tolist())) for vector in (x, y)]
    return math.dist([value / norms[0] for value in x.tolist()], [value / norms[1] for value in y.tolist()])


@pytest.mark.parametrize("kind", list(BATCHES))
def test_every_image_has_a_triplet(kind: str) -> None:
    labels, modality = batch(kind)
    for seed in range(30):
        triplets = draw_triplets(labels, modality, torch.Generator().manual_seed(seed))
        assert len(triplets.positives) == len(triplets.negatives) == len(labels)
        for a, (p, n) in enumerate(zip(*(part.tolist() for part in triplets), strict=True)):
            assert labels[p] == labels[a] != labels[n]
            assert modality[p] == modality[n] != modality[a]
    if kind == "the paper's":
        assert len(labels) == 32


def test_triplets_within_a_modality() -> None:
    """As Eq. 12's superscripts read. The one visible image of identity 2 is its own positive."""
    labels, modality = batch("mixed and ragged")
    for seed in range(30):
        triplets = draw_triplets(labels, modality, torch.Generator().manual_seed(seed), partners="same")
        for a, (p, n) in enumerate(zip(*(part.tolist() for part in triplets), strict=True)):
            assert labels[p] == labels[a] != labels[n]
            assert modality[p] == modality[n] == modality[a]
            alone = sum((labels == labels[a]) & (modality == modality[a])).item() == 1
            assert (p == a) == alone


def test_triplets_are_drawn_evenly_and_by_the_generator_alone() -> None:
    labels, modality = batch("mixed and ragged")
    counts = Counter()
    for seed in range(3000):
        triplets = draw_triplets(labels, modality, torch.Generator().manual_seed(seed))
        counts[triplets.positives[1].item()] += 1  # of identity 9, infrared: visible 3, 4
        counts["n", triplets.negatives[1].item()] += 1  # visible 0, 5, 7
    assert {key for key in counts if isinstance(key, int)} == {3, 4}
    assert counts[3] / 3000 == pytest.approx(0.5, abs=0.04)
    assert {key[1] for key in counts if isinstance(key, tuple)} == {0, 5, 7}
    assert all(counts["n", i] / 3000 == pytest.approx(1 / 3, abs=0.04) for i in (0, 5, 7))
    again = [draw_triplets(labels, modality, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert all(torch.equal(x, y) for x, y in zip(*again, strict=True))


@pytest.mark.parametrize(
    ("labels", "modality", "message"),
    [
        ([0, 0, 1], [0, 1, 0], "the same identity in other modality for image 2 .identity 1"),
        ([3, 3], [0, 1], "another identity in other modality for image 0 .identity 3"),
    ],
)
def test_a_batch_without_a_triplet(labels: list[int], modality: list[int], message: str) -> None:
    arguments = torch.tensor(labels), torch.tensor(modality)
    with pytest.raises(DataError, match=message):
        draw_triplets(*arguments, torch.Generator())
    with pytest.raises(DataError, match=message):
        hardest_triplets(torch.randn(len(labels), 2), *arguments)


@pytest.mark.parametrize("kind", list(BATCHES))
@settings(max_examples=3)
@given(seed=SEEDS)
def test_hardest_triplets(kind: str, seed: int) -> None:
    labels, modality = batch(kind)
    features = torch.randn(len(labels), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    triplets = hardest_triplets(features, labels, modality)
    for a in range(len(labels)):
        far, near = (-1.0, -1), (math.inf, -1)
        for j in range(len(labels)):
            if modality[j] == modality[a]:
                continue
            d = distance(features[a], features[j])
            if labels[j] == labels[a]:
                far = max(far, (d, j))
            else:
                near = min(near, (d, j))
        assert (triplets.positives[a], triplets.negatives[a]) == (far[1], near[1])


def triplet_loss_by_loop(
    features: torch.Tensor, triplets: CrossModalTriplets, modality: torch.Tensor, m: float
) -> float:
    losses: dict[int, list[float]] = {0: [], 1: []}
    for a, (p, n) in enumerate(zip(*(part.tolist() for part in triplets), strict=True)):
        excess = distance(features[a], features[p]) - distance(features[a], features[n]) + m
        losses[int(modality[a])].append(max(0.0, excess))
    return sum(sum(of_modality) / len(of_modality) for of_modality in losses.values() if of_modality)


@pytest.mark.parametrize("margin", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("kind", list(BATCHES))
@settings(max_examples=3)
@given(seed=SEEDS)
def test_triplet_loss(kind: str, seed: int, margin: float) -> None:
    labels, modality = batch(kind)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(labels), 3, dtype=torch.float64, generator=generator)
    triplets = draw_triplets(labels, modality, generator)
    loss = cross_modal_triplet_loss(features, triplets, modality, margin=margin)
    assert loss.item() == pytest.approx(triplet_loss_by_loop(features, triplets, modality, margin))
    scaled = cross_modal_triplet_loss(7 * features, triplets, modality, margin=margin)
    torch.testing.assert_close(scaled, loss)


def test_triplet_loss_of_the_sheet() -> None:
    """ℓ((3,4), (0,2), (4,3)) = .632456 − .282843 + .1. The other two are anchors with themselves: no loss."""
    features = torch.tensor([[3.0, 4], [0, 2], [4, 3]], dtype=torch.float64)
    modality = torch.tensor([0, 1, 1])
    triplets = CrossModalTriplets(torch.tensor([1, 1, 2]), torch.tensor([2, 2, 1]))
    exchanged = CrossModalTriplets(torch.tensor([2, 1, 2]), torch.tensor([1, 2, 1]))
    assert cross_modal_triplet_loss(features, triplets, modality).item() == pytest.approx(0.449613, abs=1e-6)
    assert cross_modal_triplet_loss(features, exchanged, modality).item() == 0


def test_one_modality_and_coincident_features() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    triplets = CrossModalTriplets(torch.tensor([1, 0, 3, 2]), torch.tensor([2, 3, 0, 1]))
    loss = cross_modal_triplet_loss(features, triplets, torch.zeros(4, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == pytest.approx(0.1)
    assert not gradient.any()


def test_gradients() -> None:
    labels, modality = batch("mixed and ragged")
    triplets = draw_triplets(labels, modality, torch.Generator().manual_seed(0))
    features = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: cross_modal_triplet_loss(x, triplets, modality, margin=1.0), features)


@pytest.mark.parametrize(("n_classes", "loss"), [(395, 6.576774), (206, 5.860664)])
def test_identity_loss_of_zero_logits(n_classes: int, loss: float) -> None:
    logits, labels = torch.zeros(3, n_classes, dtype=torch.float64), torch.tensor([0, 5, 7])
    assert latent_identity_loss(logits, logits, labels).item() == pytest.approx(loss, abs=1e-6)
    assert latent_identity_loss(logits, None, labels).item() == pytest.approx(math.log(n_classes))


def test_identity_loss() -> None:
    torch.manual_seed(0)
    of_means, of_samples = torch.randn(2, 5, 3, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 1, 0])

    def by_loop(logits: torch.Tensor) -> float:
        rows = zip(logits.tolist(), labels.tolist(), strict=True)
        return sum(-row[label] + math.log(sum(map(math.exp, row))) for row, label in rows) / len(labels)

    expected = by_loop(of_means) + 0.25 * by_loop(of_samples)
    found = latent_identity_loss(of_means, of_samples, labels, aux_weight=0.25)
    assert found.item() == pytest.approx(expected)
