"""View-invariant contrast against loops over images and rows, and by the numbers of the released class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from seeds import SEEDS
from torch import Tensor

from reid_ray.losses import (
    ContrastDraws,
    draw_contrast,
    memory_groups,
    most_negatives,
    original_contrast_loss,
    scaled_negatives,
    update_instance_memory_,
    updated_instance_memory,
    view_contrast_losses,
)

MEMORY = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [-1, 0]], dtype=torch.float64)
LABELS = np.array([0, 0, 1, 2])
FEATURE = torch.tensor([[1.0, 0]], dtype=torch.float64)
GENERATED = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
IMAGE = torch.tensor([0])


def draws(positive: int, generated_positive: int, negatives: tuple[int, ...] = (2, 3)) -> ContrastDraws:
    return ContrastDraws(torch.tensor([positive]), torch.tensor([generated_positive]), torch.tensor([negatives]))


def close(found: Tensor, expected: float, digits: float = 1e-6) -> None:
    assert float(found) == pytest.approx(expected, abs=digits)


@pytest.mark.parametrize(
    ("positives", "expected"),
    [((0, 0), 2.553986), ((0, 1), 2.659994), ((1, 0), 2.352509), ((1, 1), 2.458518)],
)
def test_numbers_of_the_reference_at_temperature_1(positives: tuple[int, int], expected: float) -> None:
    """(j⁺⁺, j⁺); the four sums that the released class can return."""
    second, first = positives
    found = view_contrast_losses(FEATURE, GENERATED, IMAGE, MEMORY, draws(first, second), temperature=1.0)
    close(found.instance, 0.925289)
    close(found.original, {0: 0.703408, 1: 0.809417}[first])
    close(found.generated, {0: 0.925289, 1: 0.723812}[second])
    close(sum(found), expected, 2e-6)


def test_numbers_of_the_reference_at_the_papers_temperature() -> None:
    found = view_contrast_losses(3 * FEATURE, 0.1 * GENERATED, IMAGE, MEMORY, draws(1, 1))
    close(found.original, 0.693147)
    close(found.instance, 5.006715)
    close(found.generated, 0.018150)
    close(sum(found), 5.718012, 2e-6)


def test_numbers_of_the_reference_without_a_generator() -> None:
    close(original_contrast_loss(FEATURE, MEMORY, draws(1, 1), temperature=1.0), 0.479104)
    assert float(original_contrast_loss(FEATURE, MEMORY, draws(1, 1))) == pytest.approx(2.06e-9, rel=5e-3)


def drawn_for(
    rows: np.ndarray | list[int], labels: np.ndarray, *, n_negatives: int, key: tuple[int, ...], **options: Any
) -> ContrastDraws:
    """Draws of a batch; as many negatives as there can be where there are fewer."""
    groups, sizes = memory_groups(labels)
    keys = torch.from_numpy(np.random.default_rng(key).random((2, len(rows), len(labels)), dtype=np.float32))
    n_negatives = min(n_negatives, most_negatives(sizes))
    return draw_contrast(torch.tensor(rows), torch.tensor(groups), keys, n_negatives=n_negatives, **options)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def naive_losses(
    features: Tensor, generated: Tensor, rows: list[int], memory: Tensor, drawn: ContrastDraws, tau: float,
    instance_positive: str, negatives_from: str,
) -> list[Tensor]:  # fmt: skip
    sums: list[list[Tensor]] = [[], [], []]
    for i, row in enumerate(rows):
        f, new = unit(features[i]), unit(generated[i])
        anchor = new if negatives_from == "generated" else f
        negatives = sum((anchor @ unit(memory[k]) / tau).exp() for k in drawn.negatives[i])
        instance = unit(memory[row]) if instance_positive == "memory" else f
        pairs = [
            f @ unit(memory[drawn.positives[i]]),
            new @ instance,
            new @ unit(memory[drawn.generated_positives[i]]),
        ]
        for losses, pair in zip(sums, pairs, strict=True):
            losses.append((1 + negatives / (pair / tau).exp()).log())
    return [torch.stack(losses).mean() for losses in sums]


def random_case(
    seed: int, n_rows: int = 12, n_images: int = 5, dim: int = 6
) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    memory = torch.randn(n_rows, dim, generator=generator, dtype=torch.float64)
    features = torch.randn(2, n_images, dim, generator=generator, dtype=torch.float64)
    labels = np.random.default_rng(seed).integers(-1, 4, n_rows)
    return memory, features[0], features[1], labels


@pytest.mark.parametrize("instance_positive", ["memory", "feature"])
@pytest.mark.parametrize("negatives_from", ["generated", "original"])
@settings(max_examples=3)
@given(seed=SEEDS)
def test_losses_and_gradients(seed: int, instance_positive: str, negatives_from: str) -> None:
    memory, features, generated, labels = random_case(seed)
    rows = [3, 0, 7, 3, 11]
    drawn = drawn_for(rows, labels, n_negatives=6, key=(seed,))
    inputs = [features.requires_grad_(), generated.requires_grad_()]
    found = view_contrast_losses(
        *inputs, torch.tensor(rows), memory, drawn, temperature=0.3,
        instance_positive=instance_positive, negatives_from=negatives_from,
    )  # fmt: skip
    expected = naive_losses(features, generated, rows, memory, drawn, 0.3, instance_positive, negatives_from)
    for term, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(term, wanted)
        gradients = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
        wanted_gradients = torch.autograd.grad(wanted, inputs, retain_graph=True, allow_unused=True)
        for gradient, wanted_gradient in zip(gradients, wanted_gradients, strict=True):
            assert (gradient is None) == (wanted_gradient is None)
            if gradient is not None:
                torch.testing.assert_close(gradient, wanted_gradient)


@pytest.mark.parametrize("instance_positive", ["memory", "feature"])
def test_who_learns_from_the_instance_loss(instance_positive: str) -> None:
    """The original feature only where it is the positive."""
    features = FEATURE.clone().requires_grad_()
    found = view_contrast_losses(
        features, GENERATED.clone().requires_grad_(), IMAGE, MEMORY, draws(1, 1), instance_positive=instance_positive
    )
    (gradient,) = torch.autograd.grad(found.instance, features, allow_unused=True)
    assert (gradient is None) == (instance_positive == "memory")


def test_without_a_generator_positive_and_negatives_are_of_the_feature() -> None:
    memory, features, _, labels = random_case(0)
    rows = [3, 0, 7, 3, 11]
    drawn = drawn_for(rows, labels, n_negatives=6, key=(0,))
    expected = naive_losses(features, features, rows, memory, drawn, 0.04, "memory", "original")[0]
    torch.testing.assert_close(original_contrast_loss(features, memory, drawn), expected)


def test_no_negatives_no_loss() -> None:
    drawn = drawn_for(np.array([0, 2]), np.zeros(4, dtype=np.int64), n_negatives=5, key=(0,))
    assert drawn.negatives.shape == (2, 0)
    found = view_contrast_losses(MEMORY[:2], MEMORY[2:], torch.tensor([0, 2]), MEMORY, drawn)
    assert [float(term) for term in found] == [0, 0, 0]


# Draws


@pytest.mark.parametrize("positives", ["independent", "shared"])
@settings(max_examples=4)
@given(seed=SEEDS)
def test_draws(seed: int, positives: str) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 5, 40)
    rows = rng.integers(0, 40, 9)
    drawn = drawn_for(rows, labels, n_negatives=10, key=(seed, 1, 2), positives=positives)
    assert drawn.negatives.shape == (9, 10)
    for i, row in enumerate(rows):
        for positive in (int(drawn.positives[i]), int(drawn.generated_positives[i])):
            assert positive == row if labels[row] < 0 else labels[positive] == labels[row]
        negatives = drawn.negatives[i].tolist()
        assert len(set(negatives)) == 10
        assert row not in negatives
        assert all(labels[k] != labels[row] or labels[row] < 0 for k in negatives)
    if positives == "shared":
        assert torch.equal(drawn.positives, drawn.generated_positives)


def test_outliers_are_negatives_and_clusters_of_their_own() -> None:
    labels = np.array([0, 0, -1, -1, 1])
    drawn = drawn_for(np.array([0, 2]), labels, n_negatives=3, key=(0,))
    assert set(drawn.negatives[0].tolist()) == {2, 3, 4}
    assert set(drawn.negatives[1].tolist()) < {0, 1, 3, 4}
    assert drawn.positives[1] == drawn.generated_positives[1] == 2
    alone = drawn_for(np.array([1]), np.array([-1, -1]), n_negatives=3, key=(0,))
    assert alone.negatives.tolist() == [[0]]


def test_there_are_negatives_enough_for_the_largest_cluster() -> None:
    labels = np.array([0] * 8 + [1] * 3 + [-1])
    assert most_negatives(memory_groups(labels)[1]) == 4
    assert most_negatives(memory_groups(np.zeros(5, dtype=np.int64))[1]) == 0
    drawn = drawn_for([0, 9, 11], labels, n_negatives=6, key=(0,))
    assert drawn.negatives.shape == (3, 4)
    assert set(drawn.negatives[0].tolist()) == {8, 9, 10, 11}


def test_draws_are_uniform_and_independent() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1, -1])
    counts = np.zeros((3, 3))
    negatives = np.zeros(8)
    n_draws = 3000
    for step in range(n_draws):
        drawn = drawn_for(np.array([1]), labels, n_negatives=2, key=(0, step))
        counts[int(drawn.positives), int(drawn.generated_positives)] += 1
        negatives[drawn.negatives[0].numpy()] += 1
    assert np.abs(counts / n_draws - 1 / 9).max() < 0.03
    assert (negatives[:3] == 0).all()
    assert np.abs(negatives[3:] / n_draws - 2 / 5).max() < 0.05


@pytest.mark.parametrize(("n_images", "expected"), [(12936, 8192), (32621, 8192), (12935, 8191), (100, 63), (1, 0)])
def test_negatives_of_smaller_sets(n_images: int, expected: int) -> None:
    assert scaled_negatives(n_images) == expected


# Memory


def test_update_by_the_numbers_of_the_reference() -> None:
    memory = torch.tensor([[1.0, 0], [0.8, 0.6]], dtype=torch.float64)
    feature, row = torch.tensor([[0.0, 2]], dtype=torch.float64), torch.tensor([1])
    bare = updated_instance_memory(memory, feature, row, momentum=0.2, renormalise=False)
    torch.testing.assert_close(bare[1].tolist(), [0.16, 0.92])
    unit_row = updated_instance_memory(memory, feature, row, momentum=0.2)
    torch.testing.assert_close(unit_row[1].tolist(), [0.171341, 0.985212], rtol=0, atol=1e-6)
    assert torch.equal(unit_row[0], memory[0])
    update_instance_memory_(memory, feature, row, momentum=0.2, renormalise=False)
    assert torch.equal(memory, bare)


@pytest.mark.parametrize("renormalise", [True, False])
def test_order_of_distinct_rows_does_not_matter(renormalise: bool) -> None:
    memory, features, _, _ = random_case(1)
    rows = torch.tensor([3, 0, 7, 5, 11])
    order = torch.tensor([4, 2, 0, 1, 3])
    found = updated_instance_memory(memory, features, rows, momentum=0.2, renormalise=renormalise)
    torch.testing.assert_close(
        updated_instance_memory(memory, features[order], rows[order], momentum=0.2, renormalise=renormalise), found
    )
    norms = found[rows].norm(dim=1)
    assert bool((norms - 1).abs().max() < 1e-9) == renormalise


def test_rows_that_are_not_unit_count_by_their_direction() -> None:
    """Eq. 5.6-5.8 have cosines: a memory that is not normalised again gives the same losses."""
    scales = torch.tensor([[2.0], [0.5], [3.0], [0.1]], dtype=torch.float64)
    plain = view_contrast_losses(FEATURE, GENERATED, IMAGE, MEMORY, draws(1, 0))
    scaled = view_contrast_losses(FEATURE, GENERATED, IMAGE, scales * MEMORY, draws(1, 0))
    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(a, b)
