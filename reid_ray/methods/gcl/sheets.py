"""Grids of generated images: rotation, identity interpolation, swaps of identity and structure (thesis, figs. 5.3-5.9).

Each is [rows, columns, 3, H, W], normalised like images; NaN is white.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from reid_ray.models.gcl import IdentityEncoder, ViewGenerator

PROJECTION = "projection@"
"""Prefix of the views that are columns of a rotation sheet; the angle follows."""

N_TURNED, N_SWAPPED, N_MIXED = 8, 8, 2
"""Number of people in a rotation sheet and in a swap matrix, and of pairs in an interpolation."""

STEPS = 11
"""Steps of an interpolation, both ends included (DG-Net's tool)."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for normalised images


def rotation_sheet(encoder: IdentityEncoder, generator: ViewGenerator, views: Mapping[str, Tensor]) -> Tensor:
    """Two rows per person: mesh projections, and below them the image and the views generated from it at each angle.

    Args:
        views: `image`, `structure` (the projection at 0°) and `projection@ANGLE` for each other column.
    """
    images, angles = views["image"][:N_TURNED], [name for name in views if name.startswith(PROJECTION)]
    code = encoder(images).code
    meshes = torch.stack([grey(views[name][: len(images)]) for name in ("structure", *angles)], dim=1)
    turned = [generator(views[name][: len(images)], code) for name in angles]
    people = torch.stack([images, *turned], dim=1)
    return torch.stack([meshes.to(people), people], dim=1).flatten(0, 1)


def interpolation_sheet(encoder: IdentityEncoder, generator: ViewGenerator, views: Mapping[str, Tensor]) -> Tensor:
    """Two rows per pair of images, with the structure of the left and of the right one, and real images at both ends.

    Between them the identity code is interpolated from left to right: (1 − t)·f_id + t·f_id', t = 0, .1, … 1.
    """
    images, structures = views["image"], generator.structure(views["structure"])
    codes = encoder(images).code
    n_pairs = min(N_MIXED, len(images) // 2)
    lines = []
    for left in range(n_pairs):
        right = left + len(images) // 2  # half a batch apart, so that no pair is of one person
        shares = torch.linspace(0, 1, STEPS, device=codes.device, dtype=codes.dtype)[:, None]
        mixed = (1 - shares) * codes[left] + shares * codes[right]
        for structure in (structures[left], structures[right]):
            made = generator.decode(structure.expand(STEPS, -1, -1, -1), mixed)
            lines.append(torch.cat([images[left : left + 1], made, images[right : right + 1]]))
    return torch.stack(lines)


def swap_matrix(encoder: IdentityEncoder, generator: ViewGenerator, views: Mapping[str, Tensor]) -> Tensor:
    """Row i, column j: identity of image i in the structure of image j; real images on the left and on top."""
    step = max(1, len(views["image"]) // N_SWAPPED)
    images, projections = (views[name][::step][:N_SWAPPED] for name in ("image", "structure"))
    structures, codes = generator.structure(projections), encoder(images).code
    rows = [generator.decode(structures, code.expand(len(images), -1)) for code in codes]
    corner = torch.full_like(images[:1], torch.nan)
    top = torch.cat([corner, images])
    return torch.stack([top, *(torch.cat([image[None], row]) for image, row in zip(images, rows, strict=True))])


def training_panel(encoder: IdentityEncoder, generator: ViewGenerator, views: Mapping[str, Tensor]) -> Tensor:
    """One row per image: x, its mesh, x'_ori, the novel mesh, x'_new, x''_ori."""
    images, structure = views["image"][:N_TURNED], generator.structure(views["structure"][:N_TURNED])
    code = encoder(images).code
    novel = generator(views["novel"][:N_TURNED], code)
    cycled = generator.decode(structure, encoder(novel).code)
    meshes, turned = (grey(views[name][:N_TURNED]).to(images) for name in ("structure", "novel"))
    return torch.stack([images, meshes, generator.decode(structure, code), turned, novel, cycled], dim=1)


def grey(projections: Tensor) -> Tensor:
    """Projections [N, 1, H, W] in −1 … 1 as grey images [N, 3, H, W], normalised like photographs."""
    mean, std = (projections.new_tensor(numbers)[:, None, None] for numbers in (_MEAN, _STD))
    return ((projections + 1) / 2 - mean) / std
