"""DG-VAE's priors by loops, the sheet's numbers, and what is wrong with two printed equations."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from seeds import SEEDS
from torch import Tensor

from reid_ray.losses.dg_vae import ambiguity_loss, large_margin_loss, margin_reward, mixture_prior_loss

SHEET = {
    "mean": torch.tensor([[1.0, -1.0]], dtype=torch.float64),
    "log_variance": 2 * torch.tensor([[0.5, 1.0]], dtype=torch.float64).log(),
    "sample": torch.tensor([[1.5, -1.5]], dtype=torch.float64),
    "class_means": torch.tensor([[0.5, 0.0], [2.0, -1.0], [-1.0, 1.0]], dtype=torch.float64),
    "labels": torch.tensor([0]),
}
"""Two dimensions: μ=(1,−1), σ=(.5,1), ε=(1,−.5); three identities."""


def random_case(seed: int, n_images: int = 6, dim: int = 3, n_classes: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mean, log_variance = normal(n_images, dim), normal(n_images, dim)
    return {
        "mean": mean,
        "log_variance": log_variance,
        "sample": mean + (log_variance / 2).exp() * normal(n_images, dim),
        "class_means": normal(n_classes, dim),
        "labels": torch.randint(n_classes, (n_images,), generator=generator),
    }


def gmm_by_loop(case: dict[str, Tensor], logdet: str, form: str, reduction: str) -> float:
    n_images, dim = case["mean"].shape
    losses = []
    for i in range(n_images):
        total = 0.0
        for k in range(dim):
            sigma = math.exp(0.5 * case["log_variance"][i, k].item())
            class_mean = case["class_means"][case["labels"][i], k].item()
            if form == "sampled":
                total += 0.5 * (case["sample"][i, k].item() - class_mean) ** 2
            else:
                total += 0.5 * (sigma**2 + (case["mean"][i, k].item() - class_mean) ** 2 - 1)
            total += math.log(sigma) if logdet == "plus" else -math.log(sigma)
        losses.append(total / (dim if reduction == "mean" else 1))
    return sum(losses) / n_images


@pytest.mark.parametrize(("logdet", "form"), list(product(["minus", "plus"], ["sampled", "closed"])))
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@settings(max_examples=3)
@given(seed=SEEDS)
def test_mixture_prior(seed: int, reduction: str, logdet: str, form: str) -> None:
    case = random_case(seed)
    found = mixture_prior_loss(**case, logdet=logdet, form=form, reduction=reduction)
    assert found.item() == pytest.approx(gmm_by_loop(case, logdet, form, reduction))


def test_mixture_prior_of_the_sheet() -> None:
    assert mixture_prior_loss(**SHEET).item() == pytest.approx(2.318147, abs=1e-6)
    assert mixture_prior_loss(**SHEET, logdet="plus").item() == pytest.approx(0.931853, abs=1e-6)
    assert mixture_prior_loss(**SHEET, form="closed").item() == pytest.approx(0.943147, abs=1e-6)


def test_the_closed_form_is_the_divergence_and_the_sampled_one_its_estimate() -> None:
    case = random_case(0, n_images=1)
    p = torch.distributions.Normal(case["mean"][0], (case["log_variance"][0] / 2).exp())
    q = torch.distributions.Normal(case["class_means"][case["labels"][0]], torch.ones(3, dtype=torch.float64))
    divergence = torch.distributions.kl_divergence(p, q).sum()
    torch.testing.assert_close(mixture_prior_loss(**case, form="closed"), divergence)
    n = 100_000
    many = {name: case[name].expand(n, -1) for name in ("mean", "log_variance")}
    noise = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    many["sample"] = many["mean"] + (many["log_variance"] / 2).exp() * noise
    estimate = mixture_prior_loss(**many, class_means=case["class_means"], labels=case["labels"].expand(n))
    assert estimate.item() - 3 / 2 == pytest.approx(divergence.item(), rel=0.02)  # the constant D/2 is left out


def test_the_printed_log_determinant_collapses() -> None:
    """At the class mean, the printed loss falls without bound as σ → 0, and the divergence rises."""
    values = {}
    for sigma in (1e-2, 1e-4):
        case = {
            "mean": torch.zeros(1, 2, dtype=torch.float64),
            "log_variance": torch.full((1, 2), 2 * math.log(sigma), dtype=torch.float64),
            "sample": torch.zeros(1, 2, dtype=torch.float64),
            "class_means": torch.zeros(1, 2, dtype=torch.float64),
            "labels": torch.tensor([0]),
        }
        values[sigma] = [mixture_prior_loss(**case, logdet=logdet).item() for logdet in ("plus", "minus")]
    assert values[1e-4] == pytest.approx([-18.420681, 18.420681], abs=1e-6)
    assert values[1e-4][0] < values[1e-2][0] < 0 < values[1e-2][1] < values[1e-4][1]


def lmc_by_loop(case: dict[str, Tensor], margins: list[float], form: str, reduction: str) -> float:
    n_images, dim = case["mean"].shape
    scale = 1 / dim if reduction == "mean" else 1
    losses = []
    for i in range(n_images):
        label = int(case["labels"][i])
        logits = []
        for c in range(len(margins)):
            distance = sum((case["sample"][i, k].item() - case["class_means"][c, k].item()) ** 2 for k in range(dim))
            logits.append(-distance * scale)
        if form == "intent":
            logits[label] -= margins[label]
        else:
            total = 0.0
            for k in range(dim):
                sigma = math.exp(0.5 * case["log_variance"][i, k].item())
                difference = case["sample"][i, k].item() - case["mean"][i, k].item()
                total += difference**2 / (sigma if form == "printed" else sigma**2)
            logits[label] = -(total * scale - margins[label])
        losses.append(-logits[label] + math.log(sum(math.exp(logit) for logit in logits)))
    return sum(losses) / n_images


@pytest.mark.parametrize("form", ["intent", "printed", "printed_variance"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@settings(max_examples=3)
@given(seed=SEEDS)
def test_large_margin(seed: int, reduction: str, form: str) -> None:
    case = random_case(seed)
    margins = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = large_margin_loss(**case, margins=margins, form=form, reduction=reduction)
    assert found.item() == pytest.approx(lmc_by_loop(case, margins.tolist(), form, reduction))


@pytest.mark.parametrize(
    ("form", "alpha", "loss"),
    [
        ("intent", 0.3, 3.096278),
        ("intent", 0.0, 2.811973),
        ("printed", 0.3, 0.668463),
        ("printed_variance", 0.3, 0.943253),
        ("printed", 10.0, 5.83e-5),
    ],
)
def test_large_margin_of_the_sheet(form: str, alpha: float, loss: float) -> None:
    margins = torch.full((3,), alpha, dtype=torch.float64)
    assert large_margin_loss(**SHEET, margins=margins, form=form).item() == pytest.approx(loss, rel=1e-3, abs=1e-6)


def test_the_printed_margin_makes_its_own_identity_easier() -> None:
    """Descent takes the printed margin up, where the loss vanishes, and the intended one down."""
    margins = torch.full((3,), 0.3, dtype=torch.float64, requires_grad=True)
    slopes = {
        form: torch.autograd.grad(large_margin_loss(**SHEET, margins=margins, form=form), margins)[0][0].item()
        for form in ("intent", "printed")
    }
    assert slopes["printed"] < 0 < slopes["intent"]


def test_the_printed_form_forgets_the_class_mean() -> None:
    moved = {**SHEET, "class_means": SHEET["class_means"] + torch.tensor([[1.0, 0.0], [0, 0], [0, 0]])}
    margins = torch.zeros(3, dtype=torch.float64)
    printed = [large_margin_loss(**case, margins=margins, form="printed").item() for case in (SHEET, moved)]
    assert printed[0] == printed[1]
    intent = [large_margin_loss(**case, margins=margins).item() for case in (SHEET, moved)]
    assert intent[0] != intent[1]


@pytest.mark.parametrize("form", ["intent", "printed", "printed_variance"])
def test_gradients(form: str) -> None:
    case = random_case(5, n_images=3)
    labels = case.pop("labels")
    leaves = [value.clone().requires_grad_() for value in (*case.values(), torch.rand(4).double())]

    def loss(mean: Tensor, log_variance: Tensor, sample: Tensor, class_means: Tensor, margins: Tensor) -> Tensor:
        shared = (mean, log_variance, sample, class_means)
        return large_margin_loss(*shared, margins, labels, form=form) + mixture_prior_loss(*shared, labels)

    assert torch.autograd.gradcheck(loss, leaves)


def test_a_sample_at_its_class_mean_has_a_finite_gradient() -> None:
    sample = torch.zeros(1, 2, requires_grad=True)
    shared = torch.zeros(1, 2), torch.zeros(1, 2), sample, torch.tensor([[0.0, 0], [1, 1]])
    large_margin_loss(*shared, torch.zeros(2), torch.tensor([0])).backward()
    assert sample.grad is not None
    assert sample.grad.isfinite().all()


def test_margin_reward() -> None:
    assert margin_reward(torch.tensor([1.0, 2.0, 6.0])).item() == -3


@settings(max_examples=3)
@given(seed=SEEDS)
def test_ambiguity(seed: int) -> None:
    case = random_case(seed)
    total = 0.0
    for mu, lv in zip(case["mean"].flatten().tolist(), case["log_variance"].flatten().tolist(), strict=True):
        total += mu**2 + math.exp(lv) - lv - 1
    assert ambiguity_loss(case["mean"], case["log_variance"]).item() == pytest.approx(total / len(case["mean"]))


def test_ambiguity_of_the_sheet_is_twice_the_divergence() -> None:
    found = ambiguity_loss(SHEET["mean"], SHEET["log_variance"])
    assert found.item() == pytest.approx(2.636294, abs=1e-6)
    normal = torch.distributions.Normal(SHEET["mean"], (SHEET["log_variance"] / 2).exp())
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum()
    assert divergence.item() == pytest.approx(1.318147, abs=1e-6)
    torch.testing.assert_close(found, 2 * divergence)
