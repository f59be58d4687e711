"""What the neighbour search computes on a GPU: candidates by `topk` over blocks, and exact scores of gathered rows.

Pure functions of tensors on one device, so that they can be traced without one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from reid_ray.labels.neighbours import kernels
from reid_ray.labels.neighbours.products import product


class Candidates(NamedTuple):
    """The best rows so far of each of R rows, in any order.

    Attributes:
        values: float32 [R, capacity], approximate similarities (negated, for the smallest); −inf where there are fewer.
        rows: int64 [R, capacity], −1 where there are fewer.
    """

    values: Tensor
    rows: Tensor


def no_candidates(n_rows: int, capacity: int, device: torch.device) -> Candidates:
    """Empty lists."""
    values = torch.full((n_rows, capacity), -torch.inf, device=device)
    return Candidates(values, torch.full((n_rows, capacity), -1, dtype=torch.int64, device=device))


def block_similarities(matrix: Tensor, columns: Tensor, offsets: Tensor, *, bf16: bool) -> Tensor:
    """float32 [R, C]: approximate similarities of rows [R, D] to the rows [C, D] of a block, with their offsets [C]."""
    return product(matrix, columns, bf16=bf16) + offsets


def offer(
    best: Candidates,
    similarities: Tensor,
    own_rows: Tensor,
    rows: Tensor,
    groups: Tensor,
    *,
    relation: int,
    sign: float,
) -> Candidates:
    """The best of the candidates so far and of a block.

    Args:
        similarities: float32 [R, C], of the rows `own_rows` [R] to the rows `rows` [C].
        groups: int64 [N]; empty where `relation` is `kernels.ANY`.
        sign: −1 to keep the smallest similarities.
    """
    barred = own_rows[:, None] == rows
    if relation != kernels.ANY:
        barred = barred | ((groups[own_rows][:, None] == groups[rows]) != (relation == kernels.SAME))
    offered = (similarities * sign).masked_fill(barred, -torch.inf)
    values, order = torch.cat([best.values, offered], dim=1).topk(best.values.shape[1], dim=1)
    return Candidates(values, torch.cat([best.rows, rows.expand(len(own_rows), -1)], dim=1).gather(1, order))


def count_candidates(values: Tensor, bounds: Tensor, k: int) -> Tensor:
    """int32 [R]: how many of sorted candidates the bound cannot exclude; `kernels.FULL` where that may be more.

    Args:
        values: float32 [R, capacity], descending.
        bounds: float32 [R], of the error of a row's similarities.
        k: wanted neighbours.
    """
    kept = values.isfinite() & (values >= values[:, k - 1 : k] - 2 * bounds[:, None])
    counts = kept.sum(dim=1)
    return torch.where(counts == values.shape[1], int(kernels.FULL), counts).int()


def exact_similarities(rows: Tensor, others: Tensor, at: Tensor, columns: Tensor) -> Tensor:
    """float32 [P]: similarities of the rows number `at` [P] of [R, D] with the rows number `columns` [P] of [C, D]."""
    return (rows[at].double() * others[columns].double()).sum(dim=1).float()
