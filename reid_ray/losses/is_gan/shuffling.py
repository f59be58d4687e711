"""Identity shuffling: images of one identity exchange their identity-related codes (IS-GAN, Eq. 3 and 4).

Eom & Ham, *Learning Disentangled Representation for Robust Person Re-identification*, NeurIPS 2019. For each image i
and another image pos(i) of its identity, three images are generated, each with its own noise:

    auto_i = G(φ_R(i), φ_U(i)),  swap_i = G(φ_R(pos i), φ_U(i)),  part_i = G(S(φ_R(i), φ_R(pos i)), φ_U(i)).

All three should be image i. S takes some parts from pos(i). All draws come from a given generator; seeded by the step,
it gives the same draws for any number of workers.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from reid_ray.errors import ConfigError

Pairs = Literal["per_image", "disjoint"]
PartShuffle = Literal["random_mask", "none"]


def draw_positives(labels: Tensor, generator: torch.Generator, *, pairs: Pairs = "per_image") -> Tensor:
    """pos(i) for every image of a batch: int64 [B], positions of other images of the same identity.

    `per_image` draws one for each image, uniformly from all others, as the released code does; the relation is not
    symmetric. `disjoint` divides the images of an identity into pairs (a, p), as in the paper; if their number is odd,
    one is left over.

    An image without a partner is its own positive; swap and auto are then the same. A sampler that
    repeats the image of a one-image identity puts it at several positions, which are positives of one another.

    Args:
        labels: int64 [B], on any device; no synchronisation.
        generator: on the CPU.
        pairs: as above.
    """
    n, device = len(labels), labels.device
    places = torch.arange(n, device=device)
    if pairs == "per_image":
        others = (labels[:, None] == labels[None, :]) & (places[:, None] != places[None, :])
        scores = torch.rand(n, n, generator=generator).to(device).masked_fill(~others, -1.0)
        return torch.where(others.any(dim=1), scores.argmax(dim=1), places)
    order = torch.randperm(n, generator=generator).to(device)
    order = order[torch.argsort(labels[order], stable=True)]  # identity by identity, in random order within each
    known = labels[order]
    rank = places - torch.searchsorted(known, known)  # within the identity
    partner = (places + 1 - 2 * (rank % 2)).clamp(max=n - 1)
    partner = torch.where(known[partner] == known, partner, places)
    return torch.empty_like(order).scatter_(0, order, order[partner])


def draw_part_mask(n_parts: int, generator: torch.Generator, *, part_shuffle: PartShuffle = "random_mask") -> Tensor:
    """S's mask: bool [n_parts], true for parts that come from pos(i); one mask for the batch.

    `random_mask` draws uniformly from all masks except the empty and the full one, as the paper describes. `none`
    exchanges no part, as the released code does: the condition of its redraw loop can never hold, the mask stays all
    zero, and L_PS is a second autoencoder loss. Report the setting with every published number.

    Raises:
        ConfigError: fewer than two parts, for which no such mask exists.
    """
    if part_shuffle == "none":
        return torch.zeros(n_parts, dtype=torch.bool)
    if n_parts < 2:
        raise ConfigError(f"{n_parts} part cannot be shuffled partially; use more part branches, or part_shuffle=none.")
    code = torch.randint(1, 2**n_parts - 1, (), generator=generator)
    return (code >> torch.arange(n_parts)) % 2 == 1


def shuffle_parts(own: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
    """S(φ_R(i), φ_R(pos i)): parts [B, K, p] of `own`, and of `positive` where `mask` bool [K] is true."""
    return torch.where(mask.to(own.device)[:, None], positive, own)


def identity_shuffling_loss(auto: Tensor, swap: Tensor, target: Tensor) -> Tensor:
    """L_S (Eq. 3): ‖auto − x̂‖₁ + ‖swap − x̂‖₁, each the mean over all values.

    Args:
        auto, swap: generated images [B, 3, H, W].
        target: x̂ = tanh(x) [B, 3, H, W], of images normalised as ImageNet's.
    """
    return (auto - target).abs().mean() + (swap - target).abs().mean()


def part_shuffling_loss(part: Tensor, target: Tensor) -> Tensor:
    """L_PS (Eq. 4): ‖part − x̂‖₁, the mean over all values."""
    return (part - target).abs().mean()
