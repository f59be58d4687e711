"""Contrast with a memory that follows the batches: of clusters (cluster-contrast), of images (SpCL).

A memory is a matrix of unit rows. The losses read it; the updates give a new one and take no gradient. The released
codes update in the backward pass with the features of that same batch, so: loss first, update after it.

* Cluster-contrast: Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification", ACCV 2022.
* SpCL: Ge et al., "Self-paced Contrastive Learning with Hybrid Memory", NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.proxy import centroid_loss
from reid_ray.losses.similarity import dot_mat

ClusterUpdate = Literal["sequential", "hard", "average"]


def cluster_memory_loss(features: Tensor, labels: Tensor, memory: Tensor, *, temperature: float) -> Tensor:
    """Cluster-contrast's loss: mean over the batch of −log softmax(⟨f, φ⟩ / τ) at the own cluster.

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
        memory: [C, D], unit rows; left as it is.
        features: [B, D], of any norm.
        labels: int64 [B], 0 … C−1.
        momentum: weight of the old row; 0.1 in the published runs.
        mode: which f. `sequential`: every image, one after another in the order of the batch (released code, made the
            published tables). `hard`: the image least similar to φ, the first among equals (released as `use_hard`).
            `average`: the mean of the cluster's unit features in the batch, whatever their order (ours).
    """
    if mode == "sequential":
        return updated_instance_memory(memory, features, labels, momentum=momentum)
    units = F.normalize(features).to(memory.dtype)
    clusters = torch.unique(labels)
    if mode == "hard":
        similarities = (units * memory[labels]).sum(dim=1)
        latest = units[_first_lowest(similarities, labels)]
    else:
        members = (clusters[:, None] == labels[None, :]).to(units.dtype)
        latest = members @ units / members.sum(dim=1, keepdim=True)
    updated = memory.clone()
    updated[clusters] = _mixed(memory[clusters], latest, momentum)
    return updated


def hybrid_memory_loss(features: Tensor, rows: Tensor, memory: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """SpCL's unified contrastive loss: −log softmax over clusters and outliers of the mean ⟨f, v⟩ / τ of their rows.

    A cluster's logit is the mean over its members (the dot product with the cluster's mean, not normalised again); an
    outlier is a cluster of one. Source classes, where there are any, are rows with labels of their own. The released
    code adds 1e-6 to the sum of exponentials and to the probability, which bounds the loss at 13.8; here there is no
    bound.

    Args:
        features: [B, D], of any norm.
        rows: int64 [B], the row of the memory that belongs to each feature.
        memory: v [N, D], unit rows, one an image.
        labels: int64 [N], the cluster of each row, negative for outliers; gaps do not matter.
        temperature: τ, 0.05 in the paper.
    """
    outliers = labels.max() + 1 + torch.arange(len(labels), device=labels.device)
    clusters = torch.where(labels < 0, outliers, labels)
    _, groups, sizes = torch.unique(clusters, return_inverse=True, return_counts=True)
    similarities = dot_mat(F.normalize(features), memory)
    sums = similarities.new_zeros(len(features), len(sizes)).index_add(1, groups, similarities)
    return F.cross_entropy(sums / sizes / temperature, groups[rows])


def updated_instance_memory(memory: Tensor, features: Tensor, rows: Tensor, *, momentum: float) -> Tensor:
    """The memory [N, D] after a batch; what `update_instance_memory_` does, to a copy."""
    updated = memory.clone()
    update_instance_memory_(updated, features, rows, momentum=momentum)
    return updated


@torch.no_grad()
def update_instance_memory_(memory: Tensor, features: Tensor, rows: Tensor, *, momentum: float) -> None:
    """Move rows of a memory, in place: v ← momentum·v + (1 − momentum)·f, normalised, for each feature.

    Features of the same row follow one another in the order of the batch. A memory of all images is too large to be
    copied at each step.

    Args:
        memory: [N, D], unit rows.
        features: [B, D], of any norm.
        rows: int64 [B], the row that each feature moves.
        momentum: weight of the old row; 0.2 in SpCL and CAP.
    """
    units = F.normalize(features).to(memory.dtype)
    for turn in _turns(rows):
        own = rows[turn]
        memory[own] = _mixed(memory[own], units[turn], momentum)


def _mixed(old: Tensor, latest: Tensor, momentum: float) -> Tensor:
    return F.normalize(momentum * old + (1 - momentum) * latest)


def _turns(rows: Tensor) -> Iterator[Tensor]:
    """Positions in `rows` of all first occurrences, of all second ones, and so on: no row is twice in one turn."""
    order = rows.argsort(stable=True)
    _, counts = torch.unique_consecutive(rows[order], return_counts=True)
    starts = counts.cumsum(0) - counts
    occurrence = torch.arange(len(rows), device=rows.device) - starts.repeat_interleave(counts)
    for turn in range(int(counts.max()) if len(rows) else 0):
        yield order[occurrence == turn]


def _first_lowest(values: Tensor, labels: Tensor) -> Tensor:
    """For each label, in ascending order, the position of its lowest value, the first among equals."""
    order = values.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    in_order = labels[order]
    first = torch.ones_like(in_order, dtype=torch.bool)
    first[1:] = in_order[1:] != in_order[:-1]
    return order[first]
