"""The similarity from which two crops count as the same person, chosen for a rate of false accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from reid_ray.errors import DataError
from reid_ray.types import UNKNOWN, FloatArray, IntArray

Origin: TypeAlias = Literal["labels", "clusters"]

MAX_IMAGES = 4000
"""Maximum number of images whose pairs are compared: 8 million pairs, which resolve a rate of 10⁻⁶."""


@dataclass(frozen=True)
class Threshold:
    """A threshold and how it was chosen. Rates are 0 … 1.

    Attributes:
        value: two crops count as the same person if their similarity is at least this.
        false_accept: share of pairs of different people that reach it, measured; at most the requested rate.
        true_accept: share of pairs of the same person that reach it; None without such pairs.
        n_different: compared pairs of different people.
        n_same: compared pairs of the same person, by two cameras if cameras are known.
        origin: source of identities: `labels` of held-out people, or `clusters` of the model's own features.
        data: name of the images.
    """

    value: float
    false_accept: float
    true_accept: float | None
    n_different: int
    n_same: int
    origin: Origin
    data: str

    def describe(self) -> str:
        """Two sentences: the rates, and what they were measured on."""
        true = "" if self.true_accept is None else f" and {self.true_accept:.1%} of {self.n_same:,} pairs of one person"
        source = (
            f"Measured on held-out identities of {self.data}."
            if self.origin == "labels"
            else f"Estimated from clusters of {self.data}, not from identities: the model judges itself, so the real "
            f"rates are worse."
        )
        return (
            f"Threshold for the same person: a similarity of {self.value:.3f} accepts {self.false_accept:.2%} of "
            f"{self.n_different:,} pairs of different people{true}. {source}"
        )


def choose_threshold(
    features: FloatArray,
    groups: IntArray,
    camids: IntArray,
    *,
    false_accept: float,
    origin: Origin,
    data: str,
    max_images: int = MAX_IMAGES,
    seed: int = 0,
) -> Threshold:
    """The smallest threshold that accepts at most a share `false_accept` of the pairs of different groups.

    Pairs of one person by one known camera are left out, because they are similar for other reasons; all pairs of
    different people are compared. If there are more than `max_images` images, randomly chosen groups are compared.

    Args:
        features: float32 [N, D], L2-normalised.
        groups: int64 [N], identities or clusters; negative ones are left out.
        camids: int64 [N], `UNKNOWN` where not known.

    Raises:
        DataError: a rate outside (0, 1), or too few pairs of different people to measure it.
    """
    if not 0 < false_accept < 1:
        raise DataError(f"The rate of false accepts must be above 0 and below 1; got {false_accept}.")
    rows = chosen_rows(groups, max_images, seed)
    groups, camids = groups[rows], camids[rows]
    similarity_mat = features[rows] @ features[rows].T
    upper = np.triu(np.ones(similarity_mat.shape, dtype=bool), 1)
    same_group = groups[:, None] == groups
    same_camera = (camids[:, None] == camids) & (camids != UNKNOWN)[:, None]
    different = similarity_mat[upper & ~same_group]
    same = similarity_mat[upper & same_group & ~same_camera]
    n_accepted = int(false_accept * len(different))
    if not n_accepted:
        raise DataError(
            f"{data} has {len(different)} pairs of different people, too few to measure a false-accept rate of "
            f"{false_accept:g}; use more images, or a larger rate."
        )
    largest_refused = np.partition(different, -n_accepted - 1)[-n_accepted - 1]
    value = np.nextafter(largest_refused, np.float32(np.inf))
    return Threshold(
        value=float(value),
        false_accept=float((different >= value).mean()),
        true_accept=float((same >= value).mean()) if len(same) else None,
        n_different=len(different),
        n_same=len(same),
        origin=origin,
        data=data,
    )


def chosen_rows(groups: IntArray, max_images: int = MAX_IMAGES, seed: int = 0) -> IntArray:
    """Rows of known groups: all, or those of randomly ordered groups until there are `max_images`."""
    known = np.flatnonzero(groups >= 0)
    if len(known) <= max_images:
        return known
    order = np.random.default_rng(seed).permutation(np.unique(groups[known]))
    place = np.empty(int(order.max()) + 1, dtype=np.int64)
    place[order] = np.arange(len(order))
    return np.sort(known[np.argsort(place[groups[known]], kind="stable")[:max_images]])
