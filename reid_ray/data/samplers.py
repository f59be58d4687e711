"""Which images make an epoch's batches: P identities × K images, by one of three strategies.

The plan of an epoch is one array that depends on the labels and the seed only. Every worker computes the same plan
and takes its columns, so the global batches are equal for any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from reid_ray.config import TrainingConfig
from reid_ray.types import OUTLIER, UNKNOWN, IntArray

Sampler = Literal["cameras_first", "other_cameras", "camera_proxies"]


def plan_epoch(
    labels: IntArray,
    camids: IntArray,
    *,
    n_pids: int,
    n_instances: int,
    iterations: int,
    rng: np.random.Generator,
    sampler: Sampler = "cameras_first",
) -> IntArray:
    """Draw the images of one epoch: int64 [iterations, P·K] of row numbers. Outliers (label −1) are never drawn.

    Args:
        labels: int64 [N].
        camids: int64 [N].
        rng: the epoch's generator.
        sampler: `plan_cameras_first`, `plan_other_cameras`, or the first of these with each pair of identity and camera
            for an identity.

    Raises:
        ValueError: no image has a label.
    """
    plan = plan_other_cameras if sampler == "other_cameras" else plan_cameras_first
    if sampler == "camera_proxies":
        labels, camids = proxy_numbers(labels, camids), np.full_like(camids, UNKNOWN)
    return plan(labels, camids, n_pids=n_pids, n_instances=n_instances, iterations=iterations, rng=rng)


def plan_as_configured(
    labels: IntArray, camids: IntArray, training: TrainingConfig, rng: np.random.Generator
) -> IntArray:
    """`plan_epoch` with the batches and the sampler of `training`."""
    return plan_epoch(
        labels,
        camids,
        n_pids=training.n_pids,
        n_instances=training.n_instances,
        iterations=training.iterations,
        rng=rng,
        sampler=training.sampler,
    )


def plan_images(n_rows: int, batch_size: int, iterations: int, rng: np.random.Generator) -> IntArray:
    """int64 [iterations, batch_size] of row numbers, all rows in random order, again and again."""
    deal = _deck(n_rows, rng)
    return np.array([next(deal) for _ in range(iterations * batch_size)], dtype=np.int64).reshape(
        iterations, batch_size
    )


def proxy_numbers(labels: IntArray, camids: IntArray) -> IntArray:
    """int64 [N]: a number for each pair of identity and camera; outliers stay outliers."""
    numbers = np.full(len(labels), OUTLIER, dtype=np.int64)
    kept = labels != OUTLIER
    numbers[kept] = np.unique(np.stack([labels[kept], camids[kept]]), axis=1, return_inverse=True)[1].ravel()
    return numbers


def plan_other_cameras(
    labels: IntArray, camids: IntArray, *, n_pids: int, n_instances: int, iterations: int, rng: np.random.Generator
) -> IntArray:
    """One image of an identity, and K−1 of other cameras than its own, identity after identity.

    The sampler of MMT's released code, which SpCL, ABMT and cluster-contrast took over: identities are dealt from a
    shuffled deck, and batches are cut from the sequence of their images. Where an identity has no other camera, the
    K−1 are other images of it; images are repeated only where there are fewer than asked for; an identity of one image
    gives that one only, once.

    Args, result and error: as for `plan_epoch`.
    """
    members = _members(labels)
    deal, n_slots = _deck(len(members), rng), iterations * n_pids * n_instances
    rows: list[int] = []
    while len(rows) < n_slots:
        own = members[next(deal)]
        anchor = own[rng.integers(len(own))]
        others = own[camids[own] != camids[anchor]]
        if not len(others):
            others = own[own != anchor]
        rows.append(int(anchor))
        if len(others):
            rows += rng.choice(others, n_instances - 1, replace=len(others) < n_instances - 1).tolist()
    return np.array(rows[:n_slots], dtype=np.int64).reshape(iterations, n_pids * n_instances)


def plan_cameras_first(
    labels: IntArray,
    camids: IntArray,
    *,
    n_pids: int,
    n_instances: int,
    iterations: int,
    rng: np.random.Generator,
) -> IntArray:
    """One image of each camera of an identity, then others; ICE's.

    Strategy: identities are dealt from a shuffled deck, which is shuffled anew when it is used up. Of a dealt
    identity, one random image of each of its cameras comes first (in random order); if they are fewer than K, other
    images of it fill up, without replacement while they last.

    Behaviour in corner cases:
        * outliers (label −1) are never drawn;
        * fewer identities than P: a batch takes all there are and shares its P·K slots among them as evenly as
          possible, so that the batch size never changes;
        * an identity with fewer images than slots repeats them;
        * unknown cameras count as one camera.

    The images of one identity stand together. Args, result and error: as for `plan_epoch`.
    """
    members = _members(labels)
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


def _members(labels: IntArray) -> list[IntArray]:
    """The rows of each label, both in ascending order."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    members = [rows for rows in np.split(order, starts[1:]) if len(rows) and labels[rows[0]] != OUTLIER]
    if not members:
        raise ValueError("no image has a label")
    return members


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
