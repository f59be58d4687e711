"""The terms of HAVANA's lower bounds by hand, and what the printed signs of algorithm 1 do to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reid_ray.losses import ElboTerms, hvd_terms, negative_elbo, vnae_terms

B, D, V = 5, 4, 3


def random_gaussian(generator: torch.Generator, dim: int) -> tuple[Tensor, Tensor]:
    mean = torch.randn(B, dim, generator=generator, dtype=torch.float64)
    return mean, 0.3 + torch.rand(B, dim, generator=generator, dtype=torch.float64)


@pytest.fixture
def parts() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    x, x_decoded = torch.randn(2, B, D, generator=generator, dtype=torch.float64)
    z, z_decoded, v = (random_gaussian(generator, dim) for dim in (D, D, V))
    return {"x": x, "x_decoded": x_decoded, "z": z, "v": v, "z_decoded": z_decoded}


def naive_kl(p: tuple[Tensor, Tensor], q: tuple[Tensor, Tensor] | None) -> float:
    """Sum over dimensions, mean over the batch, number by number."""
    total = 0.0
    for i in range(len(p[0])):
        for d in range(p[0].shape[1]):
            mean, std = p[0][i, d], p[1][i, d]
            other_mean, other_std = (q[0][i, d], q[1][i, d]) if q is not None else (torch.zeros(()), torch.ones(()))
            kl = (other_std / std).log() + (std**2 + (mean - other_mean) ** 2) / (2 * other_std**2) - 0.5
            total += kl.item()
    return total / len(p[0])


@pytest.mark.parametrize("kl_reduction", ["sum", "mean"])
def test_terms(parts, kl_reduction: str):
    x, x_decoded, z, v, z_decoded = parts.values()
    per_z, per_v = (D, V) if kl_reduction == "mean" else (1, 1)
    vnae = vnae_terms(x, x_decoded, z, kl_reduction=kl_reduction)
    hvd = hvd_terms(**parts, covariance_constraint=False, kl_reduction=kl_reduction)
    constrained = hvd_terms(**parts, covariance_constraint=True, kl_reduction=kl_reduction)
    error = sum((a - b).item() ** 2 for a, b in zip(x.flatten(), x_decoded.flatten(), strict=True)) / (B * D)
    z_error = (z[0] - z_decoded[0]).square().mean().item()
    to_normal, kl_v = naive_kl(z, None) / per_z, naive_kl(v, None) / per_v
    assert [float(t) for t in vnae] == pytest.approx([error, to_normal, 0, 0])
    assert [float(t) for t in hvd] == pytest.approx([error, naive_kl(z, z_decoded) / per_z, 0, kl_v])
    assert [float(t) for t in constrained] == pytest.approx([error, to_normal, z_error, kl_v])


def test_under_the_constraint_the_divergence_is_half_the_squared_norm(parts):
    parts["z"] = (parts["z"][0], torch.ones(B, D, dtype=torch.float64))
    terms = hvd_terms(**parts, covariance_constraint=True)
    torch.testing.assert_close(terms.kl_z, parts["z"][0].square().sum(dim=1).mean() / 2)


def test_nothing_is_left_to_lose_where_all_fits():
    x = torch.randn(B, D)
    standard, of_v = (torch.zeros(B, D), torch.ones(B, D)), (torch.zeros(B, V), torch.ones(B, V))
    for constrained in (True, False):
        terms = hvd_terms(x, x, standard, of_v, standard, covariance_constraint=constrained)
        assert all(term.item() == 0 for term in terms)


def test_negative_elbo():
    terms = ElboTerms(*(torch.tensor(value) for value in (1.0, 2.0, 4.0, 8.0)))
    assert negative_elbo(terms, beta=2.0).item() == 1 + 2 * (2 + 4 + 8)
    assert negative_elbo(terms, beta=2.0, signs="algorithm_1").item() == 1 + 2 * (-2 + 4 - 8)
    without_v = terms._replace(kl_v=torch.zeros(()))
    assert negative_elbo(without_v, beta=1.0).item() == 1 + 2 + 4


@pytest.mark.parametrize("constrained", [True, False])
def test_the_printed_signs_diverge_and_those_of_equation_13_do_not(constrained: bool):
    """Plain gradient descent on the bound alone, from the same start: its divergences fall to 0, or grow at each step.

    z̃ is held at the standard normal distribution, so that the minimum is known.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(B, D, generator=generator)
    standard = torch.zeros(B, D), torch.ones(B, D)
    histories = {}
    for signs in ("equation_13", "algorithm_1"):
        start = torch.Generator().manual_seed(1)
        z_mean, v_mean = (torch.randn(B, dim, generator=start).requires_grad_() for dim in (D, V))
        v_log_std = torch.zeros(B, V, requires_grad=True)
        optimizer = torch.optim.SGD([z_mean, v_mean, v_log_std], lr=0.5)
        history = []
        for _ in range(60):
            v = (v_mean, v_log_std.exp())
            terms = hvd_terms(x, x, (z_mean, standard[1]), v, standard, covariance_constraint=constrained)
            history.append((terms.kl_z + terms.kl_v).item())
            optimizer.zero_grad()
            negative_elbo(terms._replace(reconstruction_z=torch.zeros(())), beta=1.0, signs=signs).backward()
            optimizer.step()
        histories[signs] = history
    right, printed = histories["equation_13"], histories["algorithm_1"]
    assert right[0] == printed[0]
    assert right == sorted(right, reverse=True)
    assert right[-1] < 0.01 * right[0]
    assert printed == sorted(printed)
    assert printed[-1] > 1000 * printed[0]
