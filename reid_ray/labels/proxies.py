"""Mean features of clusters (centroids), and one normalised mean per cluster and camera (proxies)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from reid_ray.labels.features import READ_ROWS, blocks, read
from reid_ray.labels.threads import on_threads
from reid_ray.types import OUTLIER, UNKNOWN, FeatureRows, FloatArray, IntArray


class Proxies(NamedTuple):
    """Centroids and proxies of a labelling; fields as in `Labels`."""

    centroids: FloatArray
    proxies: FloatArray
    proxy_labels: IntArray
    proxy_camids: IntArray


def make_proxies(features: FeatureRows, labels: IntArray, camids: IntArray) -> Proxies:
    """Mean features of clusters [C, D], and normalised ones of (cluster, camera) pairs [M, D].

    Args:
        labels: int64 [N], without gaps.
        camids: int64 [N]; images of unknown camera are left out of the proxies.
    """
    n_clusters = int(labels.max(initial=OUTLIER)) + 1
    with_proxy = (labels != OUTLIER) & (camids != UNKNOWN)
    # Proxies sorted by camera, then cluster, as in ICE's released code.
    cameras, camera_numbers = np.unique(camids[with_proxy], return_inverse=True)
    keys, proxy_of = np.unique(camera_numbers * n_clusters + labels[with_proxy], return_inverse=True)
    proxy_cameras, proxy_labels = np.divmod(keys, max(n_clusters, 1))
    groups = np.full(len(labels), -1, dtype=np.int64)
    groups[with_proxy] = proxy_of
    proxies = group_means(features, groups, len(keys))
    norms = np.linalg.norm(proxies, axis=1, keepdims=True)
    return Proxies(
        centroids=group_means(features, labels, n_clusters),
        proxies=proxies / np.maximum(norms, np.finfo(np.float32).tiny),
        proxy_labels=proxy_labels,
        proxy_camids=np.asarray(cameras[proxy_cameras], dtype=np.int64),
    )


def group_means(features: FeatureRows, groups: IntArray, n_groups: int) -> FloatArray:
    """float32 [n_groups, D]: means of rows by group, summed in float64 in row order, for any block size.

    Args:
        groups: int64 [N], the group of each row, −1 to leave it out; each of 0 … n_groups−1 has a row.
    """
    n_rows, dim = features.shape
    sums = np.zeros((n_groups, dim), dtype=np.float64)
    for rows in blocks(n_rows, READ_ROWS) if n_groups else ():
        on_threads(_add_rows, dim, read(features, rows), groups[rows], sums)
    counts = np.bincount(groups[groups >= 0], minlength=n_groups)
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _add_rows(block: npt.NDArray[Any], groups: npt.NDArray[Any], sums: npt.NDArray[Any], start: int, stop: int) -> None:
    """Add dimensions start … stop−1 of the rows to those of their groups."""
    for row in range(len(block)):
        group = groups[row]
        if group >= 0:
            for d in range(start, stop):
                sums[group, d] += np.float64(block[row, d])
