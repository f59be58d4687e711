"""The plain types that cross the borders between extraction, labelling and training.

All are NumPy underneath, so that they pass through Ray's object store without a copy and can be written to disk
and looked at. The fourth such type, `ImageTable`, lives in `reid_ray.data.table`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

OUTLIER = -1
"""The pseudo-label of an image that belongs to no cluster."""

UNKNOWN = -1
"""The pid or camid of an image whose identity or camera is not known. (Market-1501's junk pid is also −1.)"""


@dataclass(frozen=True)
class Weights:
    """A state dict as NumPy arrays.

    Attributes:
        version: number of completed epochs when the weights were taken; 0 is the start of training.
        state: parameter and buffer name → array.
    """

    version: int
    state: Mapping[str, npt.NDArray[Any]]


class FeatureRows(Protocol):
    """A float32 matrix [N, D] that is read by contiguous rows: an array, a memory map, or parts somewhere else."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> FloatArray: ...


@dataclass(frozen=True)
class Features:
    """L2-normalised retrieval features.

    Attributes:
        values: float32 [N, D]; row i is image i of the table it was extracted from.
        version: the version of the weights that made them.
    """

    values: FeatureRows
    version: int


@dataclass(frozen=True)
class PseudoLabels:
    """What one refresh of the labels gives to every training worker.

    Attributes:
        version: the epoch these labels are for.
        labels: int64 [N], 0 … n_clusters−1 without gaps, `OUTLIER` for images in no cluster.
        centroids: float32 [n_clusters, D], mean of the members' unit features, *not* normalised again (ICE Eq. 6.4).
        proxies: float32 [n_proxies, D], mean of the members' features per (cluster, camera), normalised (Eq. 6.6);
            empty where there are no cameras.
        proxy_labels: int64 [n_proxies], the cluster of each proxy.
        proxy_camids: int64 [n_proxies], the camera of each proxy.
        statistics: plain numbers about this labelling (clusters, outliers, sizes, quality), as they are logged.
        threshold: of the clusters' independence, where they are checked for reliability; that of the first refresh.
        features: float32 [N, D], what was clustered; only at the first refresh and for a method that wants it.
        source_centroids: float32 [n_identities, D], mean unit features of a labelled source's identities at the first
            refresh; only for a method that learns from it beside the data.
    """

    version: int
    labels: IntArray
    centroids: FloatArray
    proxies: FloatArray
    proxy_labels: IntArray
    proxy_camids: IntArray
    statistics: Mapping[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    features: FloatArray | None = None
    source_centroids: FloatArray | None = None

    @property
    def n_clusters(self) -> int:
        return int(self.centroids.shape[0])

    def digest(self) -> str:
        """A short hash of everything that training reads; workers compare it to be sure they train on the same."""
        sha = hashlib.sha256(str(self.version).encode())
        arrays = (self.labels, self.centroids, self.proxies, self.proxy_labels, self.proxy_camids)
        for array in (*arrays, self.features, self.source_centroids):
            if array is None:
                continue
            sha.update(str(array.shape).encode())
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()[:16]
