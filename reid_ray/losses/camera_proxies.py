"""Camera-aware proxies, a memory with a row per cluster and camera (CAP, Wang et al., AAAI 2021).

All functions take proxies in the form of `Labels`: at most one per (cluster, camera) pair. As in
`reid_ray.losses.memory`, compute the losses first, then update. Outliers are ignored. Images of unknown camera (−1)
contribute to the inter-camera loss only, where they form a camera of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reid_ray.losses.memory import updated_instance_memory
from reid_ray.losses.proxy import cross_camera_loss, mean_sizes
from reid_ray.losses.similarity import cosine_mat


def intra_camera_loss(
    features: Tensor,
    labels: Tensor,
    camids: Tensor,
    proxies: Tensor,
    proxy_labels: Tensor,
    proxy_camids: Tensor,
    *,
    temperature: float,
) -> Tensor:
    """CAP's intra-camera loss: −log softmax(⟨f, p⟩ / τ) of the own proxy, over the proxies of the image's camera.

    The mean is taken over the images of a camera, then these means are summed over the cameras in the batch (released
    code). 0 where no image has a proxy.

    Args:
        features: [B, D], of any norm.
        labels: int64 [B], the cluster of each image.
        camids: int64 [B].
        proxies: [M, D].
        proxy_labels: int64 [M], the cluster of each proxy.
        proxy_camids: int64 [M], the camera of each proxy.
        temperature: τ, 0.07 in the paper.
    """
    if not len(proxies):
        return features.sum() * 0.0
    logits = cosine_mat(features, proxies) / temperature
    own_camera = camids[:, None] == proxy_camids[None, :]
    own = own_camera & (labels[:, None] == proxy_labels[None, :])
    counted = own.any(dim=1)
    # Ignored images still need a finite logarithm: inf · 0 would be nan.
    in_softmax = own_camera | ~counted[:, None]
    losses = logits.masked_fill(~in_softmax, -torch.inf).logsumexp(dim=1) - (logits * own).sum(dim=1)
    return (losses * counted / mean_sizes(camids, counted, "sum_over_cameras").clamp(min=1)).sum()


def inter_camera_loss(
    features: Tensor,
    labels: Tensor,
    camids: Tensor,
    proxies: Tensor,
    proxy_labels: Tensor,
    proxy_camids: Tensor,
    *,
    temperature: float,
    n_negatives: int,
) -> Tensor:
    """CAP's inter-camera loss: `cross_camera_loss` as in CAP's released code (without the weight 0.5).

    Positives are all proxies of the image's cluster, its own camera's too; the target is uniform over them, and the
    cameras' means are summed. If fewer than `n_negatives` proxies belong to other clusters, the released code adds
    positives to the negatives; here there are fewer negatives.

    Args: as for `intra_camera_loss`, and
        n_negatives: 50 in the paper.
    """
    return cross_camera_loss(
        features,
        labels,
        camids,
        proxies,
        proxy_labels,
        proxy_camids,
        temperature=temperature,
        n_negatives=n_negatives,
        own_camera_positive=True,
        reduction="sum_over_cameras",
        normalization="cosine",
    )


@torch.no_grad()
def updated_proxies(
    features: Tensor,
    labels: Tensor,
    camids: Tensor,
    proxies: Tensor,
    proxy_labels: Tensor,
    proxy_camids: Tensor,
    *,
    momentum: float,
) -> Tensor:
    """The proxies [M, D] after a batch: p ← momentum·p + (1 − momentum)·f, normalised, one image at a time.

    Images of unknown camera have no proxy and move none.

    Args: as for `intra_camera_loss`, and
        proxies: unit rows; not modified.
        momentum: weight of the old proxy, 0.2 in the released code.
    """
    if not len(proxies):
        return proxies.clone()
    own = (labels[:, None] == proxy_labels[None, :]) & (camids[:, None] == proxy_camids[None, :])
    rows, moves = own.to(torch.uint8).argmax(dim=1), own.any(dim=1)
    return updated_instance_memory(proxies, features, rows, momentum=momentum, moves=moves)
