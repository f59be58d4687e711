"""The types exchanged between extraction, labelling and training.

All consist of NumPy arrays, so they pass through Ray's object store without a copy and can be written to disk and
inspected. A fourth such type, `ImageTable`, is in `reid_ray.data.table`.
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
"""The pseudo-label of an image in no cluster."""

UNKNOWN = -1
"""The pid or camid of an image of unknown identity or camera. (Market-1501's junk pid is also −1.)"""


Version = tuple[int, int]
"""Version of weights: index of the stage, and number of completed epochs in it."""


@dataclass(frozen=True)
class Weights:
    """A state dict as NumPy arrays.

    Attributes:
        module: name of the method's module that the weights belong to.
        version: when the weights were taken.
        state: parameter and buffer name → array.
    """

    module: str
    version: Version
    state: Mapping[str, npt.NDArray[Any]]


class FeatureRows(Protocol):
    """A float32 matrix [N, D] that is read by contiguous rows: an array, a memory map, or remote parts."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> FloatArray: ...


@dataclass(frozen=True)
class Features:
    """L2-normalised retrieval features.

    Attributes:
        values: float32 [N, D]; row i is image i of the table it was extracted from.
        version: the epoch for which they are used.
    """

    values: FeatureRows
    version: int


def _no_rows() -> FloatArray:
    return np.empty((0, 0), dtype=np.float32)


def _no_numbers() -> IntArray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Labels:
    """The result of one label refresh of a stream, for every training worker.

    The arrays after `labels` are empty unless the stage needs them.

    Attributes:
        version: the epoch these labels are for.
        labels: int64 [N], 0 … n_clusters−1 without gaps, `OUTLIER` for images in no cluster.
        centroids: float32 [n_clusters, D], mean of the members' unit features, *not* normalised again (ICE Eq. 6.4).
        proxies: float32 [n_proxies, D], mean of the members' features per (cluster, camera), normalised (Eq. 6.6);
            empty without cameras.
        proxy_labels: int64 [n_proxies], the cluster of each proxy.
        proxy_camids: int64 [n_proxies], the camera of each proxy.
        statistics: numbers about the labelling (clusters, outliers, sizes, quality), for the log.
        threshold: threshold of cluster independence of the first refresh, if reliability is checked.
        features: float32 [N, D], the features behind the labels; None unless needed.
    """

    version: int
    labels: IntArray
    centroids: FloatArray = field(default_factory=_no_rows)
    proxies: FloatArray = field(default_factory=_no_rows)
    proxy_labels: IntArray = field(default_factory=_no_numbers)
    proxy_camids: IntArray = field(default_factory=_no_numbers)
    statistics: Mapping[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    features: FloatArray | None = None

    @property
    def n_clusters(self) -> int:
        return int(self.labels.max(initial=OUTLIER)) + 1

    def digest(self) -> str:
        """A short hash of everything that training reads; workers compare it to verify that their labels are equal."""
        sha = hashlib.sha256(str(self.version).encode())
        arrays = (self.labels, self.centroids, self.proxies, self.proxy_labels, self.proxy_camids)
        for array in (*arrays, self.features):
            if array is None:
                continue
            sha.update(str(array.shape).encode())
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()[:16]
