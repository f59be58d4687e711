"""IS-GAN's figures: interpolated codes (fig. 1), part swaps between two people (fig. 5), and a swap matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

N_PAIRS = 4
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Share of the second image's code in the five generated images of fig. 1."""


class Codes(NamedTuple):
    """Inputs of the generator.

    Attributes:
        identity: φ_R [N, K, p].
        unrelated: φ_U [N, K, u], the means of the Gaussians.
        classes: one-hot identities [N, C], or mixtures of them, matching `identity`.
    """

    identity: Tensor
    unrelated: Tensor
    classes: Tensor


Generate = Callable[[Codes], Tensor]
"""Codes → images [N, 3, H, W], normalised like the network's input."""


def render_grids(
    images: Tensor, codes: Codes, labels: Sequence[int], generate: Generate, stripes: Sequence[int]
) -> dict[str, Tensor]:
    """The grids by name, [rows, columns, 3, H, W], for the first image of each identity; empty for a single identity.

    Args:
        images: [N, 3, H, W], normalised.
        labels: N identities.
        stripes: number of stripes of each part branch.
    """
    people = torch.tensor([labels.index(label) for label in dict.fromkeys(labels)], device=images.device)
    if len(people) < 2:
        return {}
    images, codes = images[people], Codes(*(code[people] for code in codes))
    pairs = [(i, i + 1) for i in range(0, len(people) - 1, 2)][:N_PAIRS]
    return {
        "interpolation": interpolation(images, codes, pairs, generate),
        "part-swap": part_swap(images, codes, pairs, generate, stripes),
        "swap": swap_matrix(images, codes, generate),
    }


def interpolation(images: Tensor, codes: Codes, pairs: Sequence[tuple[int, int]], generate: Generate) -> Tensor:
    """Fig. 1: for each pair (A, B) two rows, A, five generated images, B.

    In the first row φ_R (and the identity) is interpolated from A to B, and φ_U is A's; in the second φ_U is
    interpolated, and φ_R is A's. The paper interpolates linearly; it does not specify the one-hot identity in between.
    """
    rows = []
    for a, b in pairs:
        first = Codes(*(torch.stack([code[a]] * len(STEPS)) for code in codes))
        mixed = Codes(*(torch.stack([torch.lerp(code[a], code[b], step) for step in STEPS]) for code in codes))
        for varied in (mixed._replace(unrelated=first.unrelated), first._replace(unrelated=mixed.unrelated)):
            rows.append(torch.cat([images[a : a + 1], generate(varied), images[b : b + 1]]))
    return torch.stack(rows)


def part_swap(
    images: Tensor, codes: Codes, pairs: Sequence[tuple[int, int]], generate: Generate, stripes: Sequence[int]
) -> Tensor:
    """Fig. 5: a row for each pair (A, B): both images, then both after each of four swaps.

    The swaps exchange upper and lower identity-related parts, and upper and lower identity-unrelated parts. Upper and
    lower are the first and the last stripe of each branch that has several; codes of the whole image and of stripes
    between them are kept. (The paper does not specify which parts it swaps.)
    """
    upper, lower = (part_mask(stripes, which).to(images.device)[:, None] for which in ("upper", "lower"))
    rows = []
    for a, b in pairs:
        own, other = (Codes(*(code[list(order)] for code in codes)) for order in ((a, b), (b, a)))
        swapped = [
            own._replace(identity=torch.where(mask, other.identity, own.identity)) for mask in (upper, lower)
        ] + [own._replace(unrelated=torch.where(mask, other.unrelated, own.unrelated)) for mask in (upper, lower)]
        rows.append(torch.cat([images[[a, b]], *map(generate, swapped)]))
    return torch.stack(rows)


def swap_matrix(images: Tensor, codes: Codes, generate: Generate) -> Tensor:
    """All combinations: φ_R of the image on the left, φ_U of the one on top; the corner is white."""
    white = torch.full_like(images[:1], float("nan"))
    rows = [torch.cat([white, images])]
    for i in range(len(images)):
        own = Codes(*(code[i : i + 1].expand_as(code) for code in codes))
        rows.append(torch.cat([images[i : i + 1], generate(own._replace(unrelated=codes.unrelated))]))
    return torch.stack(rows)


def part_mask(stripes: Sequence[int], which: str) -> Tensor:
    """bool [K]: the upper or the lower stripe of each branch that has several, in the order of the parts."""
    mask: list[bool] = []
    for n in stripes:
        mask += [False]  # the whole map
        if n > 1:
            mask += [i == (0 if which == "upper" else n - 1) for i in range(n)]
    return torch.tensor(mask)
