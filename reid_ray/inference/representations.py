"""Named intermediate vectors of a network, for figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

FEATURE = "retrieval feature"


def representations(network: nn.Module, images: Tensor, **columns: Tensor) -> Mapping[str, Tensor]:
    """Name → [N, …] for a batch of images; only the retrieval feature if the network names no others."""
    if not hasattr(network, "representations"):
        return {FEATURE: network.embed(images, **columns)}  # type: ignore[operator]
    name: Callable[..., Mapping[str, Tensor]] = network.representations  # type: ignore[assignment]
    return name(images, **columns)


class EmbedRepresentations(nn.Module):
    """A network whose `embed` returns all representations, concatenated.

    Attributes:
        sizes: name → size, in order; known after the first batch.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.sizes: dict[str, int] = {}

    def embed(self, images: Tensor, **columns: Tensor) -> Tensor:
        named = representations(self.network, images, **columns)
        self.sizes = {name: values.shape[1] for name, values in named.items()}
        return torch.cat([values.float() for values in named.values()], dim=1)
