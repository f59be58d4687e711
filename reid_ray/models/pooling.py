"""Global pooling: feature map [N, C, h, w] → vector [N, C]."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pooling = Literal["avg", "max", "gem"]


class AveragePooling(nn.Module):
    """Mean over all positions."""

    def forward(self, feature_map: Tensor) -> Tensor:
        return feature_map.mean(dim=(2, 3))


class MaxPooling(nn.Module):
    """Maximum over all positions; among equal values, one gets the gradient."""

    def forward(self, feature_map: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(feature_map, 1).flatten(1)


class GeMPooling(nn.Module):
    """Generalised mean with a learnt exponent p (Radenović et al., TPAMI 2019).

    `(1/|Ω| Σ_{x∈Ω} max(x, ε)^p)^(1/p)` over the positions Ω of a channel: the mean for p = 1, the maximum
    for p → ∞.
    """

    EPS = 1e-6

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))

    def forward(self, feature_map: Tensor) -> Tensor:
        return feature_map.clamp(min=self.EPS).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


def build_pooling(name: Pooling) -> nn.Module:
    layers: dict[Pooling, type[nn.Module]] = {"avg": AveragePooling, "max": MaxPooling, "gem": GeMPooling}
    return layers[name]()
