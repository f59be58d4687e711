"""The neighbour search on a GPU: candidates by `topk` over blocks, and exact scores of gathered rows.

Pure functions of tensors on one device, so tests can trace them without a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from reid_ray.labels.neighbours import kernels
from reid_ray.labels.neighbours.products import product


class Candidates(NamedTuple):
    """The best candidates so far of each of R rows, in any order.

    Attributes:
        values: float32 [R, capacity], approximate similarities (negated to find the smallest), padded with −inf.
        rows: int64 [R, capacity], padded with −1.
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
    """Merge the candidates so far with those of a block.

    Args:
        similarities: float32 [R, C], of the rows `own_rows` [R] to the rows `rows` [C].
        groups: int64 [N]; empty where `relation` is `kernels.ANY`.
        sign: −1 to keep the smallest similarities.
    """
    excluded = own_rows[:, None] == rows
    if relation != kernels.ANY:
        excluded = excluded | ((groups[own_rows][:, None] == groups[rows]) != (relation == kernels.SAME))
    offered = (similarities * sign).masked_fill(excluded, -torch.inf)
    values, order = torch.cat([best.values, offered], dim=1).topk(best.values.shape[1], dim=1)
    return Candidates(values, torch.cat([best.rows, rows.expand(len(own_rows), -1)], dim=1).gather(1, order))


def count_candidates(values: Tensor, bounds: Tensor, k: int) -> Tensor:
    """int32 [R]: number of candidates that the bound cannot exclude; `kernels.FULL` if there may be more.

    Args:
        values: float32 [R, capacity], descending.
        bounds: float32 [R], error bound of each row's similarities.
        k: neighbours to find.
    """
    kept = values.isfinite() & (values >= values[:, k - 1 : k] - 2 * bounds[:, None])
    counts = kept.sum(dim=1)
    return torch.where(counts == values.shape[1], int(kernels.FULL), counts).int()


def exact_similarities(rows: Tensor, others: Tensor, at: Tensor, columns: Tensor) -> Tensor:
    """float32 [P]: similarities of `rows[at]` with `others[columns]`, for index arrays `at`, `columns` [P]."""
    return (rows[at].double() * others[columns].double()).sum(dim=1).float()
