"""IS-GAN's losses of identity, codes and classes by loops, and the sheet's numbers."""

from __future__ import annotations

import math

import pytest
import torch

from reid_ray.losses import generator_loss
from reid_ray.losses.is_gan import (
    STAGE_WEIGHTS,
    IsGanWeights,
    class_loss,
    discriminator_domain_loss,
    part_identity_loss,
    unrelated_kl_loss,
)


def cross_entropy_by_loop(logits: list[float], label: int) -> float:
    return -logits[label] + math.log(sum(math.exp(value) for value in logits))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("batch", "n_parts", "n_classes"), [(4, 8, 5), (1, 3, 2), (3, 1, 4)])
def test_identity_loss(batch: int, n_parts: int, n_classes: int, reduction: str) -> None:
    torch.manual_seed(batch)
    logits = torch.randn(n_parts, batch, n_classes, dtype=torch.float64)
    labels = torch.randint(n_classes, (batch,))
    losses = [
        [cross_entropy_by_loop(logits[k, i].tolist(), int(labels[i])) for k in range(n_parts)] for i in range(batch)
    ]
    of_images = [sum(parts) / (n_parts if reduction == "mean" else 1) for parts in losses]
    assert part_identity_loss(logits, labels, reduction=reduction).item() == pytest.approx(sum(of_images) / batch)


@pytest.mark.parametrize(("n_classes", "loss"), [(751, 6.621406), (767, 6.642487), (702, 6.553933)])
def test_identity_loss_of_zero_logits(n_classes: int, loss: float) -> None:
    logits, labels = torch.zeros(8, 2, n_classes, dtype=torch.float64), torch.tensor([0, 5])
    assert part_identity_loss(logits, labels).item() == pytest.approx(loss, abs=1e-6)
    assert part_identity_loss(logits, labels, reduction="sum").item() == pytest.approx(8 * math.log(n_classes))


@pytest.mark.parametrize(("batch", "n_parts", "dim"), [(2, 8, 5), (1, 1, 1), (3, 4, 2)])
def test_kl_loss(batch: int, n_parts: int, dim: int) -> None:
    torch.manual_seed(dim)
    mean, log_variance = torch.randn(2, batch, n_parts, dim, dtype=torch.float64)
    total = 0.0
    for mu, lv in zip(mean.flatten().tolist(), log_variance.flatten().tolist(), strict=True):
        total += 0.5 * (mu**2 + math.exp(lv) - lv - 1)
    assert unrelated_kl_loss(mean, log_variance).item() == pytest.approx(total / n_parts)
    assert unrelated_kl_loss(mean, log_variance, reduction="paper").item() == pytest.approx(total / batch)


def test_kl_loss_of_the_sheet() -> None:
    mean, log_variance = torch.full((2, 8, 64), 0.5, dtype=torch.float64), torch.full((2, 8, 64), -1.0).double()
    assert unrelated_kl_loss(mean, log_variance).item() == pytest.approx(39.544284, abs=1e-6)
    assert unrelated_kl_loss(mean, log_variance, reduction="paper").item() == pytest.approx(158.177137, abs=1e-6)
    assert unrelated_kl_loss(torch.zeros(2, 8, 64), torch.zeros(2, 8, 64)).item() == 0
    sixteen = mean.repeat(8, 1, 1), log_variance.repeat(8, 1, 1)
    ratio = unrelated_kl_loss(*sixteen) / unrelated_kl_loss(*sixteen, reduction="paper")
    assert ratio.item() == pytest.approx(2)


def test_class_loss() -> None:
    torch.manual_seed(0)
    sets = [torch.randn(4, 3, dtype=torch.float64) for _ in range(4)]
    labels = torch.tensor([0, 2, 1, 1])
    expected = sum(
        sum(cross_entropy_by_loop(logits[i].tolist(), int(labels[i])) for i in range(4)) / 4 for logits in sets
    )
    assert class_loss(sets, labels).item() == pytest.approx(expected)


def test_adversarial_objectives_of_the_sheet() -> None:
    """All outputs ½ and uniform class logits over 751 identities."""
    patches, classes, labels = torch.zeros(2, 1, 12, 4).double(), torch.zeros(2, 751).double(), torch.tensor([3, 4])
    weights = IsGanWeights()
    of_discriminator = discriminator_domain_loss(patches, [patches] * 3) + weights.discriminator_classes * class_loss(
        [classes] * 4, labels
    )
    assert of_discriminator.item() == pytest.approx(16.015400, abs=1e-6)
    of_generator = weights.total(
        {
            "domain": generator_loss([patches] * 3, kind="log-nonsaturating"),
            "classes": class_loss([classes] * 3, labels),
        }
    )
    assert of_generator.item() == pytest.approx(41.807875, abs=1e-6)


def test_weights_of_the_stages() -> None:
    terms = {
        name: torch.tensor(10.0**i)
        for i, name in enumerate(("identity", "kl", "shuffling", "part_shuffling", "domain", "classes"))
    }
    totals = {stage: weights.total(terms).item() for stage, weights in STAGE_WEIGHTS.items()}
    assert totals["identity"] == pytest.approx(1)
    assert totals["disentangle"] == pytest.approx(0.01 + 1e3 + 1e4 + 1e4 + 2e5)
    assert totals["joint"] == pytest.approx(20 + 0.1 + 1e3 + 1e4 + 1e4 + 2e5)
    assert IsGanWeights().total({"kl": torch.tensor(3.0)}).item() == pytest.approx(0.03)
    with pytest.raises(AttributeError):
        IsGanWeights().total({"klee": torch.tensor(3.0)})
