"""What several methods are made of: memories, classifiers, and the features of the global batch by branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.methods.base import Exchange
from reid_ray.models import Embedding


class Kept(nn.Module):
    """Tensors that change within an epoch, as buffers, so that a checkpoint holds them like any network."""

    def keep(self, **tensors: Tensor) -> None:
        """Set tensors by name."""
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name)


class Classifiers(nn.Module):
    """Linear classifiers without bias, one per branch. Until `restart` they have no classes.

    Args:
        dims: sizes D of the branches' features.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(0, dim)) for dim in dims)

    def restart(self, weights: Sequence[Tensor], *, like: Tensor) -> None:
        """Begin anew with these [C, D], on the device and in the type of `like`."""
        trained = self.weights[0].requires_grad
        self.weights = nn.ParameterList(nn.Parameter(weight.to(like), requires_grad=trained) for weight in weights)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[B, D] of each branch → logits [B, C] of each."""
        return [feature @ weight.t() for feature, weight in zip(features, self.weights, strict=True)]


def embeddings(network: nn.Module, images: Tensor, exchange: Exchange) -> list[Embedding]:
    """The embeddings of the global batch by each branch of a network; of a plain one, by the only one there is."""
    found = network(images)
    branches = [found] if isinstance(found, Embedding) else list(found)
    stacked = torch.stack([tensor for branch in branches for tensor in branch], dim=1)
    tensors = exchange.gather(stacked).unbind(dim=1)
    return [Embedding(*tensors[2 * i : 2 * i + 2]) for i in range(len(branches))]


def joined_feature(network: nn.Module, images: Tensor, exchange: Exchange) -> Tensor:
    """[B, dim] of the global batch: the features of the branches, one after another, as in the retrieval feature."""
    return torch.cat([branch.feature for branch in embeddings(network, images, exchange)], dim=1)


def branch_dims(network: nn.Module) -> list[int]:
    """Size of the feature of each branch."""
    return [branch.dim for branch in getattr(network, "branches", [network])]


def cluster_classifiers(centroids: Tensor, dims: Sequence[int]) -> list[Tensor]:
    """Initial classifiers from cluster means [C, ΣD] of retrieval features: the part of each branch, normalised."""
    return [F.normalize(part) for part in torch.split(centroids, list(dims), dim=1)]


def trainable(*modules: nn.Module) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]


def mean_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Mean over images of the Euclidean distance of two features, given in parts [B, D]; for the log."""
    difference = torch.cat(list(first), dim=1) - torch.cat(list(second), dim=1)
    return difference.detach().square().sum(dim=1).sqrt().mean()
