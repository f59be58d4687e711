"""Which images make an epoch's batches: P identities × K images, cameras first.

The plan of an epoch is one array that depends on the labels and the seed only. Every worker computes the same plan
and takes its columns, so the global batches are equal for any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from reid_ray.types import OUTLIER, IntArray


def plan_epoch(
    labels: IntArray,
    camids: IntArray,
    *,
    n_pids: int,
    n_instances: int,
    iterations: int,
    rng: np.random.Generator,
) -> IntArray:
    """Draw the images of one epoch.

    Strategy: identities are dealt from a shuffled deck, which is shuffled anew when it is used up. Of a dealt
    identity, one random image of each of its cameras comes first (in random order); if they are fewer than K, other
    images of it fill up, without replacement while they last.

    Behaviour in corner cases:
        * outliers (label −1) are never drawn;
        * fewer identities than P: a batch takes all there are and shares its P·K slots among them as evenly as
          possible, so that the batch size never changes;
        * an identity with fewer images than slots repeats them;
        * unknown cameras count as one camera.

    Args:
        labels: int64 [N].
        camids: int64 [N].
        rng: the epoch's generator.

    Returns:
        int64 [iterations, P·K] of row numbers; the images of one identity stand together.

    Raises:
        ValueError: no image has a label.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels[labels != OUTLIER])]
    if not members:
        raise ValueError("no image has a label")
    by_camera = [[rows[camids[rows] == camid] for camid in np.unique(camids[rows])] for rows in members]
    shares = _shares(n_pids * n_instances, min(n_pids, len(members)))
    deal = _deck(len(members), rng)
    plan = np.empty((iterations, n_pids * n_instances), dtype=np.int64)
    for batch in plan:
        dealt = _deal_distinct(deal, len(shares))
        picks = [_pick(members[i], by_camera[i], n, rng) for i, n in zip(dealt, shares, strict=True)]
        batch[:] = np.concatenate(picks)
    return plan


def worker_columns(batch_size: int, rank: int, n_workers: int) -> slice:
    """The contiguous share of each global batch that one worker trains on."""
    local = batch_size // n_workers
    return slice(rank * local, (rank + 1) * local)


def _shares(n_slots: int, n_groups: int) -> list[int]:
    base, rest = divmod(n_slots, n_groups)
    return [base + (i < rest) for i in range(n_groups)]


def _deck(n: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(n).tolist()


def _deal_distinct(deal: Iterator[int], n: int) -> list[int]:
    """The next n identities; one that comes twice across a reshuffle is passed over the second time."""
    dealt: list[int] = []
    for identity in deal:
        if identity not in dealt:
            dealt.append(identity)
        if len(dealt) == n:
            break
    return dealt


def _pick(rows: IntArray, by_camera: list[IntArray], n: int, rng: np.random.Generator) -> IntArray:
    first = np.array([rng.choice(group) for group in by_camera], dtype=np.int64)
    first = rng.permutation(first)[:n]
    missing = n - len(first)
    if not missing:
        return first
    rest = np.setdiff1d(rows, first, assume_unique=True)
    if len(rest) >= missing:
        return np.concatenate([first, rng.choice(rest, missing, replace=False)])
    pool = rest if len(rest) else rows
    repeats = rng.choice(pool, missing - len(rest), replace=True)
    return np.concatenate([first, rng.permutation(rest), repeats])
