"""Contrast with a memory bank that is updated by each batch: of clusters (cluster-contrast), of images (SpCL).

A memory is a matrix of unit rows. The losses read it; the updates return a new one, without gradient. The released
codes update in the backward pass with the features of the same batch, so compute the loss first and update afterwards.

* Cluster-contrast: Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification", ACCV 2022.
* SpCL: Ge et al., "Self-paced Contrastive Learning with Hybrid Memory", NeurIPS 2020.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.proxy import centroid_loss
from reid_ray.losses.similarity import dot_mat
from reid_ray.types import IntArray

ClusterUpdate = Literal["sequential", "hard", "average"]


def cluster_memory_loss(features: Tensor, labels: Tensor, memory: Tensor, *, temperature: float) -> Tensor:
    """Cluster-contrast's loss: mean over the batch of −log softmax(⟨f, φ⟩ / τ) of the own cluster.

    Args:
        features: [B, D], of any norm.
        labels: int64 [B], 0 … C−1; no outliers.
        memory: φ [C, D], unit rows; at the start of an epoch the normalised means of the clusters.
        temperature: τ, 0.05 in the paper.
    """
    return centroid_loss(features, labels, memory, temperature=temperature, label_smoothing=0.0, normalize=True)


@torch.no_grad()
def updated_cluster_memory(
    memory: Tensor, features: Tensor, labels: Tensor, *, momentum: float, mode: ClusterUpdate
) -> Tensor:
    """The memory [C, D] after a batch: φ ← momentum·φ + (1 − momentum)·f, normalised, for the clusters in the batch.

    Args:
        memory: [C, D], unit rows; not modified.
        features: [B, D], of any norm.
        labels: int64 [B], 0 … C−1.
        momentum: weight of the old row; 0.1 in the published runs.
        mode: which f. `sequential`: each image in turn, in batch order (released code, produced the published tables).
            `hard`: the image least similar to φ, the first in case of a tie (released as `use_hard`). `average`: the
            mean of the cluster's unit features in the batch, independent of their order (ours).
    """
    if mode == "sequential":
        return updated_instance_memory(memory, features, labels, momentum=momentum)
    if not len(labels):
        return memory.clone()
    units = F.normalize(features).to(memory.dtype)
    counts = memory.new_zeros(len(memory)).index_add(0, labels, memory.new_ones(len(labels)))
    if mode == "hard":
        latest = units[_first_lowest((units * memory[labels]).sum(dim=1), labels, len(memory))]
    else:
        latest = torch.zeros_like(memory).index_add(0, labels, units) / counts.clamp(min=1)[:, None]
    return torch.where(counts[:, None] > 0, _mixed(memory, latest, momentum), memory)


def hybrid_memory_loss(
    features: Tensor, rows: Tensor, memory: Tensor, groups: Tensor, sizes: Tensor, *, temperature: float
) -> Tensor:
    """SpCL's unified contrastive loss: −log softmax over clusters and outliers of the mean ⟨f, v⟩ / τ of their rows.

    A cluster's logit is the mean over its members (the dot product with the cluster's mean, not normalised again); an
    outlier is a cluster of one. Source classes, if there are any, are groups of one row. The released code adds 1e-6
    to the sum of exponentials and to the probability, which bounds the loss at 13.8; here there is no bound.

    Args:
        features: [B, D], of any norm.
        rows: int64 [B], the row of the memory that belongs to each feature.
        memory: v [N, D], unit rows, one per image.
        groups: int64 [N], the group of each row, and
        sizes: [G], the rows of each group; from `memory_groups`.
        temperature: τ, 0.05 in the paper.
    """
    similarities = dot_mat(F.normalize(features), memory)
    sums = similarities.new_zeros(len(features), len(sizes)).index_add(1, groups, similarities)
    return F.cross_entropy(sums / sizes / temperature, groups[rows])


def memory_groups(labels: IntArray) -> tuple[IntArray, IntArray]:
    """Groups int64 [N] of a memory's rows, 0 … G−1, and their sizes int64 [G].

    Args:
        labels: int64 [N], the cluster of each row, negative for outliers, each of which becomes a group of its own;
            gaps are allowed.
    """
    outliers = labels.max(initial=-1) + 1 + np.arange(len(labels))
    _, groups, sizes = np.unique(np.where(labels < 0, outliers, labels), return_inverse=True, return_counts=True)
    return groups, sizes


def updated_instance_memory(
    memory: Tensor,
    features: Tensor,
    rows: Tensor,
    *,
    momentum: float,
    renormalise: bool = True,
    moves: Tensor | None = None,
) -> Tensor:
    """The memory [N, D] after a batch: `update_instance_memory_` on a copy."""
    updated = memory.clone()
    update_instance_memory_(updated, features, rows, momentum=momentum, renormalise=renormalise, moves=moves)
    return updated


@torch.no_grad()
def update_instance_memory_(
    memory: Tensor,
    features: Tensor,
    rows: Tensor,
    *,
    momentum: float,
    renormalise: bool = True,
    moves: Tensor | None = None,
) -> None:
    """Move rows of a memory, in place: v ← momentum·v + (1 − momentum)·f, normalised, for each feature.

    Several features of one row are applied in batch order. In place, because a memory of all images is too large to
    copy at each step. One feature at a time, because finding repeated rows would synchronise with the device at each
    step.

    Args:
        memory: [N, D], unit rows.
        features: [B, D], of any norm.
        rows: int64 [B], the row that each feature moves.
        momentum: weight of the old row; 0.2 in SpCL, CAP and GCL.
        renormalise: whether to normalise rows again, as all released codes do. If false, the mixture is stored as is
            (GCL's Eq. 5.5) and norms fall below 1.
        moves: bool [B], which features move their row; None: all.
    """
    units = F.normalize(features).to(memory.dtype)
    for place in range(len(rows)):
        row = rows[place : place + 1]
        old = memory[row]
        mixed = momentum * old + (1 - momentum) * units[place : place + 1]
        mixed = F.normalize(mixed) if renormalise else mixed
        memory[row] = mixed if moves is None else torch.where(moves[place], mixed, old)


def _mixed(old: Tensor, latest: Tensor, momentum: float) -> Tensor:
    return F.normalize(momentum * old + (1 - momentum) * latest)


def _first_lowest(values: Tensor, labels: Tensor, n_labels: int) -> Tensor:
    """Position of the lowest value of each label, the first in case of a tie; arbitrary for labels that do not
    occur."""
    lowest = values.new_full((n_labels,), torch.inf).scatter_reduce(0, labels, values, "amin")
    places = torch.arange(len(labels), device=labels.device)
    places = torch.where(values == lowest[labels], places, len(labels) - 1)
    return places.new_full((n_labels,), len(labels) - 1).scatter_reduce(0, labels, places, "amin")
