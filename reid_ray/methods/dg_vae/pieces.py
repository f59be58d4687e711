"""The global batch of two modalities on several workers, and networks applied to several parts of it at once.

The global batch has all visible images first, then all infrared ones. A worker holds a slice of each modality: two
*pieces*. Decoded outputs are in pieces too, two for each swap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reid_ray.methods.base import Batch, Collectives
from reid_ray.models import GaussianCode

MODALITIES = ("visible", "infrared")
"""The streams of a batch, in the order of their codes."""

Pieces = Sequence[Tensor]


def apply_to_pieces(network: Callable[[Tensor], Tensor], pieces: Pieces, *, together: bool) -> list[Tensor]:
    """Apply a network to several pieces.

    Args:
        together: in one call, so that a batch norm over the whole batch includes all pieces of all workers. Otherwise
            piece by piece: batch-norm groups of a fixed number of images are then within one piece for any number
            of workers.
    """
    if not together:
        return [network(piece) for piece in pieces]
    return list(torch.split(network(torch.cat(list(pieces))), [len(piece) for piece in pieces]))


def encode_pieces(encoder: Callable[[Tensor], GaussianCode], pieces: Pieces, *, together: bool) -> list[GaussianCode]:
    """Apply a Gaussian encoder to several pieces, like `apply_to_pieces`."""
    if not together:
        return [encoder(piece) for piece in pieces]
    sizes = [len(piece) for piece in pieces]
    mean, log_variance = (torch.split(tensor, sizes) for tensor in encoder(torch.cat(list(pieces))))
    return [GaussianCode(*parts) for parts in zip(mean, log_variance, strict=True)]


def gather_pieces(pieces: Pieces, collectives: Collectives) -> Tensor:
    """This worker's two pieces → the global batch."""
    return torch.cat([collectives.all_gather(piece) for piece in pieces])


def local_pieces(whole: Tensor, collectives: Collectives) -> list[Tensor]:
    """The global batch → this worker's two pieces."""
    return [collectives.local_slice(half) for half in whole.chunk(2)]


def global_mean(local: Tensor, collectives: Collectives) -> Tensor:
    """The mean of a scalar that every worker computes as a mean over equally many images."""
    return collectives.all_gather(local[None]).mean()


def global_labels(batch: Batch) -> tuple[Tensor, Tensor]:
    """Labels and modalities of the global batch, int64 [B] each."""
    labels = [batch[stream].labels for stream in MODALITIES]
    modality = [torch.full_like(each, code) for code, each in enumerate(labels)]
    return torch.cat(labels), torch.cat(modality)


def sample_pieces(
    codes: Sequence[GaussianCode], name: str, batch: Batch, collectives: Collectives, *, sampled: bool
) -> list[Tensor]:
    """Samples of the codes of the two pieces, with noise of the global batch; the means if not `sampled`."""
    if not sampled:
        return [code.mean for code in codes]
    samples = []
    for stream, code in zip(MODALITIES, codes, strict=True):
        shape = len(batch[stream].labels), code.mean.shape[1]
        noise = collectives.local_slice(batch.noise(f"{name}/{stream}", shape, like=code.mean))
        samples.append(code.sample(noise))
    return samples
