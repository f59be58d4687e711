"""The domain losses against sums over single patches, and the numbers of the sheet."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.losses import generator_loss
from reid_ray.losses.is_gan import discriminator_domain_loss


def bce_by_loop(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean over patches, one by one, of −t·ln D − (1 − t)·ln(1 − D)."""
    losses = []
    for logit, target in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        losses.append(-target * math.log(probability) - (1 - target) * math.log(1 - probability))
    return sum(losses) / len(losses)


def random_logits(seed: int, n_sets: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 1, 3, 2), (2, 1, 3, 2), (4, 1, 1, 1)][:n_sets]
    real = torch.randn(4, 1, 3, 2, generator=generator, dtype=torch.float64)
    return real, [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("n_sets", [0, 1, 3])
@settings(max_examples=3)
@given(seed=SEEDS)
def test_of_the_discriminator(seed: int, n_sets: int, noisy: bool) -> None:
    real, generated = random_logits(seed, n_sets)
    real_noise = torch.rand_like(real) if noisy else None
    noises = [torch.rand_like(logits) for logits in generated] if noisy else None
    expected = bce_by_loop(real, 0.7 + 0.3 * real_noise if real_noise is not None else torch.ones_like(real))
    for i, logits in enumerate(generated):
        expected += bce_by_loop(logits, 0.3 * noises[i] if noises is not None else torch.zeros_like(logits))
    found = discriminator_domain_loss(real, generated, real_noise=real_noise, generated_noise=noises)
    assert found.item() == pytest.approx(expected)


@settings(max_examples=3)
@given(seed=SEEDS)
def test_of_the_generator(seed: int) -> None:
    _, generated = random_logits(seed, 3)
    expected = sum(bce_by_loop(logits, torch.ones_like(logits)) for logits in generated)
    assert generator_loss(generated, kind="log-nonsaturating").item() == pytest.approx(expected)
    as_printed = sum(-bce_by_loop(logits, torch.zeros_like(logits)) for logits in generated)
    assert generator_loss(generated, kind="log").item() == pytest.approx(as_printed)


def test_numbers_of_the_sheet() -> None:
    """All outputs ½: ln 2 for real and for each of three sets. The least BCE with target .85 or .15 is .422709."""
    undecided = torch.zeros(2, 1, 12, 4)
    assert discriminator_domain_loss(undecided, [undecided] * 3).item() == pytest.approx(4 * math.log(2))
    assert generator_loss([undecided] * 3, kind="log-nonsaturating").item() == pytest.approx(3 * math.log(2))
    for target, noises in ((0.85, (0.5, None)), (0.15, (None, 0.5))):
        logits = torch.full((2, 1, 3, 3), math.log(target / (1 - target)), dtype=torch.float64)
        real_noise, noise = (None if value is None else torch.full_like(logits, value) for value in noises)
        sure = torch.full_like(logits, 80.0)
        if real_noise is not None:
            found = discriminator_domain_loss(logits, [], real_noise=real_noise)
        else:
            found = discriminator_domain_loss(sure, [logits], generated_noise=[noise])
        assert found.item() == pytest.approx(0.422709, abs=1e-6)


def test_sure_logits_are_finite_and_the_minimax_form_vanishes_there() -> None:
    sure = torch.full((2, 1, 2, 2), -200.0, requires_grad=True)
    for kind, slope in (("log-nonsaturating", -1.0), ("log", 0.0)):
        (gradient,) = torch.autograd.grad(generator_loss([sure], kind=kind), sure)
        torch.testing.assert_close(gradient.sum(), torch.tensor(slope))
    assert discriminator_domain_loss(sure, [-sure]).isfinite()


def test_a_missing_noise_is_an_error() -> None:
    logits = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="zip"):
        discriminator_domain_loss(logits, [logits, logits], generated_noise=[logits])
