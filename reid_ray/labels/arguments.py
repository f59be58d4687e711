"""Validation of arguments of the label engine: a mistake raises an error instead of changing the result."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_array, issparse
from torch import Tensor

from reid_ray.config import LabelsConfig
from reid_ray.errors import ConfigError, DataError
from reid_ray.types import FeatureRows, IntArray


class DistanceGraph(csr_array):  # type: ignore[misc]  # SciPy has no types
    """A sparse matrix of distances with its cutoff.

    Matrices derived from it (a slice, a sum) have no known cutoff.

    Attributes:
        max_distance: all pairs up to this distance are stored; None if unknown.
    """

    max_distance: float | None = None


def reaching(graph: csr_array, max_distance: float) -> DistanceGraph:
    """The graph with its cutoff attached; arrays are shared, not copied."""
    known = DistanceGraph((graph.data, graph.indices, graph.indptr), graph.shape)
    known.max_distance = float(max_distance)
    return known


def within(graph: csr_array, max_distance: float) -> DistanceGraph:
    """The graph of the pairs up to a smaller distance."""
    kept = graph.data <= np.float32(max_distance)
    ends = np.concatenate([[0], np.cumsum(kept)])[graph.indptr]
    return reaching(csr_array((graph.data[kept], graph.indices[kept], ends), graph.shape), max_distance)


def check_graph(graph: Any) -> None:
    """Raise `DataError` unless the graph is a square CSR matrix."""
    if not issparse(graph) or graph.format != "csr":
        raise DataError(
            f"The distance graph must be a scipy.sparse.csr_array, as jaccard_graph returns; got "
            f"{type(graph).__name__}."
        )
    if graph.shape[0] != graph.shape[1]:
        raise DataError(f"The distance graph must be square; got the shape {list(graph.shape)}.")


def check_dbscan(graph: csr_array, eps: float, min_samples: int) -> None:
    """Raise `ConfigError` for an invalid eps or min_samples, or an eps beyond the cutoff of the graph.

    A graph with pairs up to 0.6 lacks those at 0.8, so DBSCAN with eps=0.9 would silently give the result of eps=0.6.
    """
    if not (math.isfinite(eps) and eps >= 0):
        raise ConfigError(f"DBSCAN's eps must be a distance of at least 0; got {eps}.")
    if not is_count(min_samples):
        raise ConfigError(f"min_samples must be a whole number of at least 1; got {min_samples!r}.")
    reach = getattr(graph, "max_distance", None)
    if reach is None:
        return
    if np.float32(eps) > np.float32(reach):
        raise ConfigError(
            f"The graph holds pairs up to max_distance={reach:g}, so eps={eps:g} would miss neighbours; build it "
            f"with max_distance={eps:g}, or use a smaller eps."
        )
    if eps >= 1:
        raise ConfigError(
            f"DBSCAN's eps={eps:g} must be below 1: the graph does not store pairs at the largest Jaccard distance, 1."
        )


def check_max_distance(max_distance: float) -> None:
    """Raise `ConfigError` unless the cutoff is a Jaccard distance."""
    if not 0 <= max_distance <= 1:
        raise ConfigError(f"max_distance must be a Jaccard distance from 0 to 1; got {max_distance}.")


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 1)


class Neighbourhood(Protocol):
    """Settings of DBSCAN on a Jaccard graph, as `LabelsConfig` and a setting of a sweep have them."""

    @property
    def k1(self) -> int: ...
    @property
    def k2(self) -> int: ...
    @property
    def min_samples(self) -> int: ...


def check_neighbourhood(config: LabelsConfig | Neighbourhood, n_images: int) -> None:
    """Raise `ConfigError` where the settings ask for more neighbours or clusters than there are images.

    For settings that a user chose; `refresh` itself takes any number of images.

    With k1 neighbours of N ≤ k1 images every image is everybody's neighbour, all distances are small, and everything is
    one cluster whatever eps is.
    """
    if isinstance(config, LabelsConfig) and config.clusterer == "kmeans":
        counted = {"n_clusters": config.n_clusters}
    else:
        counted = {"k1": config.k1 + 1, "k2": config.k2, "min_samples": config.min_samples}
    for name, least in counted.items():
        if least > n_images:
            raise ConfigError(
                f"labels.{name}={getattr(config, name)} needs at least {least} images, but there are {n_images}; set "
                f"labels.{name} far below the number of images."
            )


def feature_rows(features: Any) -> FeatureRows:
    """A matrix of features from any row-indexable object, a tensor on any device, or a list of lists.

    Raises:
        DataError: not a matrix of numbers.
    """
    if isinstance(features, Tensor):
        features = features.detach().cpu().float().numpy()
    elif not hasattr(features, "shape"):
        try:
            features = np.asarray(features, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"Features must be a matrix [N, D] of numbers; got {type(features).__name__} ({error})."
            ) from error
    if len(features.shape) != 2:
        raise DataError(f"Features must be a matrix [N, D]; got the shape {list(features.shape)}.")
    if isinstance(features, np.ndarray) and features.dtype.kind not in "fiu":
        raise DataError(f"Features must be numbers; got {features.dtype}.")
    rows: FeatureRows = features
    return rows


def camera_column(camids: Any, n_rows: int) -> IntArray | None:
    """Cameras as int64 [N], or None; `DataError` unless they are whole numbers, one per row."""
    if camids is None:
        return None
    column = np.asarray(camids)
    if column.shape != (n_rows,) or column.dtype.kind not in "iu":
        raise DataError(
            f"camids must be {n_rows} whole numbers, one per feature; got {column.dtype} with the shape "
            f"{list(column.shape)}."
        )
    return column.astype(np.int64)
