"""The mixture's parameters: where margins start and stay, and that means are learnt."""

from __future__ import annotations

import math

import pytest
import torch

from reid_ray.models.dg_vae import MixturePrior


def test_sizes_and_start() -> None:
    torch.manual_seed(0)
    prior = MixturePrior(395, 256)
    assert prior.means.shape == (395, 256)
    assert prior.means.mean().item() == pytest.approx(0, abs=0.02)
    assert prior.means.std().item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(prior.margins, torch.full((395,), math.log(2)))
    assert {name for name, _ in prior.named_parameters()} == {"means", "raw_margins"}


@pytest.mark.parametrize("margin", ["learnt_with_reward", "fixed"])
def test_a_given_margin(margin: str) -> None:
    prior = MixturePrior(3, 2, margin=margin, initial_margin=0.3)
    torch.testing.assert_close(prior.margins, torch.full((3,), 0.3))
    assert prior.margins.requires_grad == (margin == "learnt_with_reward")
    assert "raw_margins" in prior.state_dict()
    assert "raw_margins" in prior.double().state_dict()


def test_margins_stay_between_0_and_10() -> None:
    prior = MixturePrior(3, 2)
    with torch.no_grad():
        prior.raw_margins.copy_(torch.tensor([-200.0, 1.0, 200.0]))
    torch.testing.assert_close(prior.margins, torch.tensor([0.0, math.log1p(math.e), 10.0]))
