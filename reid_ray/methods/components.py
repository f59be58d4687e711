"""Components that several methods share: memories, classifiers, and global-batch features by branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.methods.base import Batch, Collectives
from reid_ray.models import Embedding
from reid_ray.types import FloatArray, IntArray


class BufferDict(nn.Module):
    """Named tensors that change within a stage, stored as buffers so that checkpoints include them.

    Loading a state dict creates the buffers in it, of any name and shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_like", torch.empty(0), persistent=False)  # tracks device and dtype

    def set(self, **tensors: Tensor) -> None:
        """Set tensors by name: moved to the module's device, and floating-point ones cast to its dtype."""
        like = self.get_buffer("_like")
        for name, tensor in tensors.items():
            dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
            self.register_buffer(name, tensor.to(device=like.device, dtype=dtype))

    def set_arrays(self, **arrays: FloatArray | IntArray) -> None:
        """Set tensors from copies of NumPy arrays, as in `set`."""
        self.set(**{name: torch.tensor(array) for name, array in arrays.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def __contains__(self, name: str) -> bool:
        return name in self._buffers

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        self.set(**{name: torch.empty_like(value) for name, value in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Classifiers(nn.Module):
    """Linear classifiers without bias, one per branch. They have no classes until `restart`.

    Loading a state dict sets the number of classes.

    Args:
        dims: sizes D of the branches' features.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(0, dim)) for dim in dims)

    @property
    def n_classes(self) -> int:
        return len(self.weights[0])

    def restart(self, weights: Sequence[Tensor]) -> None:
        """Replace the weights by copies of these, [C, D] per branch."""
        like = self.weights[0]
        self.weights = nn.ParameterList(
            nn.Parameter(weight.to(like, copy=True), requires_grad=like.requires_grad) for weight in weights
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[B, D] of each branch → logits [B, C] of each."""
        return [feature @ weight.t() for feature, weight in zip(features, self.weights, strict=True)]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        keys = [f"{prefix}weights.{i}" for i in range(len(self.weights))]
        self.restart([torch.empty_like(state_dict[key]) for key in keys if key in state_dict] or list(self.weights))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def embeddings(network: nn.Module, images: Tensor, collectives: Collectives) -> list[Embedding]:
    """The embeddings of the global batch by each branch of a network; a plain network has a single one."""
    found = network(images)
    branches = [found] if isinstance(found, Embedding) else list(found)
    stacked = torch.stack([tensor for branch in branches for tensor in branch], dim=1)
    tensors = collectives.all_gather(stacked).unbind(dim=1)
    return [Embedding(*tensors[2 * i : 2 * i + 2]) for i in range(len(branches))]


def joined_feature(network: nn.Module, images: Tensor, collectives: Collectives) -> Tensor:
    """[B, dim] of the global batch: the features of the branches, concatenated as in the retrieval feature."""
    return torch.cat([branch.feature for branch in embeddings(network, images, collectives)], dim=1)


def branch_dims(network: nn.Module) -> list[int]:
    """Size of the feature of each branch."""
    return [branch.dim for branch in getattr(network, "branches", [network])]


def cluster_classifiers(centroids: FloatArray, dims: Sequence[int]) -> list[Tensor]:
    """Initial classifiers from cluster means [C, ΣD] of retrieval features: the slice of each branch, normalised."""
    return [F.normalize(part) for part in torch.split(torch.tensor(centroids), list(dims), dim=1)]


def mean_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Mean over images of the Euclidean distance of two features, given in slices [B, D]; for the log."""
    difference = torch.cat(list(first), dim=1) - torch.cat(list(second), dim=1)
    return difference.detach().square().sum(dim=1).sqrt().mean()


def dropout_masks(
    batch: Batch,
    name: str,
    shapes: Sequence[Sequence[int]],
    rate: float,
    collectives: Collectives,
    device: torch.device,
) -> list[Tensor]:
    """This worker's slice of dropout masks for the global batch, bool: false with probability `rate`.

    Args:
        name: key of the masks; different draws within a step need different names.
        shapes: [B, …] of each mask.
        rate: rounded to a multiple of 1/65536.
    """
    threshold, masks = round(rate * 65536), []
    for number, shape in enumerate(shapes):
        drawn = batch.rng(f"{name}/{number}").integers(0, 65536, size=tuple(shape), dtype=np.uint16)
        masks.append(collectives.local_slice(torch.from_numpy(drawn >= threshold)).to(device))
    return masks


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weighted sum of the terms."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
