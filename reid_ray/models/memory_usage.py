"""Memory of a network in training, extrapolated from passes over a few small images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

SAMPLE_HEIGHT, SAMPLE_WIDTH = 64, 32
"""Size of the sample images, pixels; multiples of a ResNet's stride, so that activation memory scales with the area."""


@dataclass(frozen=True)
class NetworkMemory:
    """Memory of a network in bytes.

    Attributes:
        weights: parameters and buffers.
        trainable: parameters that have a gradient.
        kept_per_pixel: saved by a forward pass in training for the backward pass, per pixel of each image.
            Excludes workspace of convolutions and memory that allocators do not return.
        kept_anyway: saved independently of the images.
    """

    weights: int
    trainable: int
    kept_per_pixel: float
    kept_anyway: int

    def activations(self, batch_size: int, height: int, width: int) -> int:
        """Bytes that the forward pass of a batch of this size saves."""
        return round(self.kept_per_pixel * batch_size * height * width) + self.kept_anyway

    def in_bf16(self) -> NetworkMemory:
        """The memory of this float32 network when it computes in bfloat16: half the activations, a copy of the weights.

        A network keeps up to an eighth more, because its images, poolings and necks stay float32.
        """
        copied_weights = self.trainable // 2
        return replace(self, kept_per_pixel=self.kept_per_pixel / 2, kept_anyway=self.kept_anyway + copied_weights)


def measure_network(build: Callable[[], nn.Module], batch_size: int = 2) -> NetworkMemory:
    """The memory of the network that `build` creates.

    Args:
        build: creates the network with random weights; the state of torch's global generator is restored.
        batch_size: images per pass; with BN groups, a multiple of their size.
    """
    with torch.random.fork_rng(devices=[]):
        network = build().train()
    parameters = list(network.parameters())
    low, high = (
        _kept_for_backward(network, torch.zeros(batch_size, 3, n * SAMPLE_HEIGHT, SAMPLE_WIDTH)) for n in (1, 2)
    )
    return NetworkMemory(
        weights=_bytes([*parameters, *network.buffers()]),
        trainable=_bytes(parameter for parameter in parameters if parameter.requires_grad),
        kept_per_pixel=(high - low) / (batch_size * SAMPLE_HEIGHT * SAMPLE_WIDTH),
        kept_anyway=max(0, 2 * low - high),
    )


def _kept_for_backward(network: nn.Module, images: Tensor) -> int:
    """Bytes that autograd saves in a forward pass, excluding the weights."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # kept alive, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
