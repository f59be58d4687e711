"""DG-VAE's mixture of Gaussians: a learnt mean and a learnt margin for each identity (Eq. 2, 6 to 8).

[R] marks choices of this project that the paper does not specify.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_MARGIN = 10.0
"""Upper bound of margins [R]."""

Margin = Literal["learnt_with_reward", "fixed"]


class MixturePrior(nn.Module):
    """p(d|y) = N(M_y, I): class means M [n_identities, dim] and margins α ≥ 0 [n_identities].

    The means are initialised standard normal, from torch's global generator ("initialised randomly", §3.1), the margins
    as softplus(0) = 0.693 [R]. Neither has weight decay [R].

    Attributes:
        means: M.
        margin: `learnt_with_reward`: α is learnt, and the caller adds `losses.dg_vae.margin_reward`, without which
            gradient descent drives the margins to 0 (or, in the printed form of the loss, to infinity). `fixed`: α
            keeps its initial value, in a buffer.
    """

    def __init__(
        self, n_identities: int, dim: int, *, margin: Margin = "learnt_with_reward", initial_margin: float = math.log(2)
    ) -> None:
        super().__init__()
        self.margin: Margin = margin
        self.means = nn.Parameter(torch.randn(n_identities, dim))
        raw = torch.full((n_identities,), math.log(math.expm1(initial_margin)))  # the inverse of softplus
        if margin == "fixed":
            self.register_buffer("raw_margins", raw)
        else:
            self.raw_margins = nn.Parameter(raw)

    @property
    def margins(self) -> Tensor:
        """α = softplus(raw) [n_identities], at most 10."""
        return F.softplus(cast(Tensor, self.raw_margins)).clamp(max=MAX_MARGIN)
