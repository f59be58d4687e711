"""Sample the batches of an epoch: P identities × K items, or all items in random order.

The plan of an epoch is one array per stream that depends on the labels and the seed only. Every worker computes the
same plan and takes its columns, so the global batches are equal for any number of workers. An item is an image or a
tracklet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reid_ray.config import StageConfig
from reid_ray.types import OUTLIER, UNKNOWN, IntArray


@dataclass(frozen=True)
class Pool:
    """The items from which one stream is sampled.

    Attributes:
        labels: int64 [N]; items with label `OUTLIER` are never sampled.
        camids: int64 [N].
        identities: whether the labels are identities; otherwise items are sampled in random order.
        table: name of the table; streams of one table draw different items of an identity where they can.
    """

    labels: IntArray
    camids: IntArray
    identities: bool = True
    table: str = ""


def sample_epoch(
    pools: Mapping[str, Pool], stage: StageConfig, rngs: Sequence[np.random.Generator]
) -> dict[str, IntArray]:
    """Draw the items of one epoch: by stream, int64 [steps, P·K] of item numbers.

    Args:
        pools: by stream. The first one's length sets the number of steps where `stage.iterations` is null.
        stage: batch size, iterations and sampler.
        rngs: a generator for each stream; streams that are sampled jointly use the first.

    Raises:
        ValueError: no item has a label, or the streams have no identity in common.
    """
    if stage.sampler == "shared_identities":
        return sample_shared_identities(pools, stage, rngs[0])
    plans: dict[str, IntArray] = {}
    iterations = stage.iterations
    for (name, pool), rng in zip(pools.items(), rngs, strict=True):
        plans[name] = sample_stream(pool, stage, iterations, rng)
        iterations = len(plans[name])
    return plans


def sample_stream(pool: Pool, stage: StageConfig, iterations: int | None, rng: np.random.Generator) -> IntArray:
    """The items of one stream, sampled independently by the sampler of the stage."""
    labels, camids = pool.labels, pool.camids
    if stage.sampler == "shuffle" or not pool.identities:
        return sample_shuffled(np.flatnonzero(labels != OUTLIER), stage.batch_size, iterations, rng)
    if stage.sampler == "camera_proxies":
        labels = proxy_numbers(labels, camids)
    if stage.sampler in ("camera_proxies", "random_instances"):
        camids = np.full_like(camids, UNKNOWN)
    sample = sample_other_cameras if stage.sampler == "other_cameras" else sample_cameras_first
    if iterations is None:
        iterations = max(1, len(_members(labels)) // stage.n_pids)
    return sample(labels, camids, n_pids=stage.n_pids, n_instances=stage.n_instances, iterations=iterations, rng=rng)


def sample_shuffled(rows: IntArray, batch_size: int, iterations: int | None, rng: np.random.Generator) -> IntArray:
    """int64 [iterations, batch_size] of `rows` in repeated random orders; one pass if `iterations` is None.

    The incomplete batch at the end of one pass is dropped.
    """
    if not len(rows):
        raise ValueError("no item has a label")
    steps = max(1, len(rows) // batch_size) if iterations is None else iterations
    cycle = _shuffled_cycle(len(rows), rng)
    return rows[[next(cycle) for _ in range(steps * batch_size)]].reshape(steps, batch_size)


def sample_shared_identities(
    pools: Mapping[str, Pool], stage: StageConfig, rng: np.random.Generator
) -> dict[str, IntArray]:
    """P identities that all streams share, and K items of each from every stream, at the same positions in the batch.

    For pairs of one identity (anchor, positive) and batches of two modalities. Streams of one table get different
    items of an identity while it has enough.
    """
    members = [dict(_labelled_members(pool.labels)) for pool in pools.values()]
    shared = sorted(set.intersection(*(set(each) for each in members)))
    if not shared:
        raise ValueError(f"the streams {', '.join(pools)} have no identity in common")
    counts = _split_evenly(stage.batch_size, min(stage.n_pids, len(shared)))
    steps = max(1, len(shared) // stage.n_pids) if stage.iterations is None else stage.iterations
    cycle = _shuffled_cycle(len(shared), rng)
    plans = {name: np.empty((steps, stage.batch_size), dtype=np.int64) for name in pools}
    for step in range(steps):
        start = 0
        for place, count in zip(_draw_distinct(cycle, len(counts)), counts, strict=True):
            taken: dict[str, IntArray] = {}
            for (name, pool), own in zip(pools.items(), members, strict=True):
                rows = own[shared[place]]
                fresh = np.setdiff1d(rows, taken.get(pool.table, rows[:0]))
                drawn = _draw(fresh if len(fresh) else rows, count, rng)
                taken[pool.table] = np.concatenate([taken.get(pool.table, rows[:0]), drawn])
                plans[name][step, start : start + count] = drawn
            start += count
    return plans


def proxy_numbers(labels: IntArray, camids: IntArray) -> IntArray:
    """int64 [N]: a number for each pair of identity and camera; outliers stay outliers."""
    numbers = np.full(len(labels), OUTLIER, dtype=np.int64)
    kept = labels != OUTLIER
    numbers[kept] = np.unique(np.stack([labels[kept], camids[kept]]), axis=1, return_inverse=True)[1].ravel()
    return numbers


def sample_other_cameras(
    labels: IntArray, camids: IntArray, *, n_pids: int, n_instances: int, iterations: int, rng: np.random.Generator
) -> IntArray:
    """One image of an identity, and K−1 of other cameras than its own, identity after identity.

    The sampler of MMT's released code, adopted by SpCL, ABMT and cluster-contrast: identities are drawn from a
    shuffled cycle, and batches are cut from the sequence of their images. Where an identity has no other camera, the
    K−1 are other images of it; images are repeated only if there are fewer than requested; an identity with a single
    image contributes it once.

    Args:
        labels: int64 [N]; outliers are never drawn.
        camids: int64 [N].
        rng: the epoch's generator.

    Returns:
        int64 [iterations, P·K] of row numbers.

    Raises:
        ValueError: no image has a label.
    """
    members = _members(labels)
    cycle, n_slots = _shuffled_cycle(len(members), rng), iterations * n_pids * n_instances
    rows: list[int] = []
    while len(rows) < n_slots:
        own = members[next(cycle)]
        anchor = own[rng.integers(len(own))]
        others = own[camids[own] != camids[anchor]]
        if not len(others):
            others = own[own != anchor]
        rows.append(int(anchor))
        if len(others):
            rows += rng.choice(others, n_instances - 1, replace=len(others) < n_instances - 1).tolist()
    return np.array(rows[:n_slots], dtype=np.int64).reshape(iterations, n_pids * n_instances)


def sample_cameras_first(
    labels: IntArray,
    camids: IntArray,
    *,
    n_pids: int,
    n_instances: int,
    iterations: int,
    rng: np.random.Generator,
) -> IntArray:
    """One image of each camera of an identity, then others; the sampler of ICE.

    Strategy: identities are drawn from a shuffled cycle, which is shuffled again when it is exhausted. For each
    identity, one random image of each of its cameras comes first (in random order); if these are fewer than K, other
    images of the identity follow, without replacement while they last.

    Behaviour in corner cases:
        * outliers (label −1) are never drawn;
        * fewer identities than P: a batch takes all of them and divides its P·K slots among them as evenly as
          possible, so that the batch size never changes;
        * an identity with fewer images than slots repeats them;
        * unknown cameras count as one camera.

    The images of one identity are adjacent. Args, result and error: as for `sample_other_cameras`.
    """
    members = _members(labels)
    by_camera = [[rows[camids[rows] == camid] for camid in np.unique(camids[rows])] for rows in members]
    counts = _split_evenly(n_pids * n_instances, min(n_pids, len(members)))
    cycle = _shuffled_cycle(len(members), rng)
    plan = np.empty((iterations, n_pids * n_instances), dtype=np.int64)
    for batch in plan:
        drawn = _draw_distinct(cycle, len(counts))
        picks = [_draw_cameras_first(members[i], by_camera[i], n, rng) for i, n in zip(drawn, counts, strict=True)]
        batch[:] = np.concatenate(picks)
    return plan


def worker_columns(batch_size: int, rank: int, n_workers: int) -> slice:
    """The contiguous share of each global batch that one worker trains on."""
    local = batch_size // n_workers
    return slice(rank * local, (rank + 1) * local)


def _members(labels: IntArray) -> list[IntArray]:
    """The rows of each label, both in ascending order."""
    members = [rows for _, rows in _labelled_members(labels)]
    if not members:
        raise ValueError("no item has a label")
    return members


def _labelled_members(labels: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Each label with its rows, both in ascending order; outliers are left out."""
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    for label, rows in zip(values.tolist(), np.split(order, starts[1:]), strict=False):
        if label != OUTLIER:
            yield label, rows


def _split_evenly(n_slots: int, n_groups: int) -> list[int]:
    base, rest = divmod(n_slots, n_groups)
    return [base + (i < rest) for i in range(n_groups)]


def _shuffled_cycle(n: int, rng: np.random.Generator) -> Iterator[int]:
    """Endless passes over 0 … n−1, each in a new random order."""
    while True:
        yield from rng.permutation(n).tolist()


def _draw_distinct(cycle: Iterator[int], n: int) -> list[int]:
    """The next n distinct numbers; a number repeated across a reshuffle is skipped the second time."""
    drawn: list[int] = []
    for number in cycle:
        if number not in drawn:
            drawn.append(number)
        if len(drawn) == n:
            break
    return drawn


def _draw(rows: IntArray, n: int, rng: np.random.Generator) -> IntArray:
    """n of the rows in random order, repeated only where there are fewer."""
    if len(rows) >= n:
        return rng.choice(rows, n, replace=False)
    return np.concatenate([rng.permutation(rows), rng.choice(rows, n - len(rows))])


def _draw_cameras_first(rows: IntArray, by_camera: list[IntArray], n: int, rng: np.random.Generator) -> IntArray:
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
