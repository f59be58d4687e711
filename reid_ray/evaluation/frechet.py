"""Fréchet distance between two sets of features; with Inception's pool features it is the FID of generated images."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from reid_ray.errors import DataError

Array: TypeAlias = npt.NDArray[Any] | Tensor
Float64Array: TypeAlias = npt.NDArray[np.float64]


def frechet_distance(x: Array, y: Array) -> float:
    """|μ_x − μ_y|² + Tr(S_x + S_y − 2·(S_x·S_y)^½), with covariances of n − 1 (Heusel et al., NeurIPS 2017, Eq. 6).

    Computed in float64, without a matrix square root: with S = RᵀR, the trace of (S_x·S_y)^½ is the sum of the singular
    values of R_x·R_yᵀ. For fewer samples than dimensions R is the centred matrix itself, so no matrix is D × D. This is
    exact even if S_x·S_y is singular, as it is in that case.

    The estimate is biased upwards for few samples: compare only distances for equal numbers of samples.

    Args:
        x: [n, D] features, n ≥ 2.
        y: [m, D].

    Raises:
        DataError: incompatible shapes, a single sample, NaN or infinite values.
    """
    x, y = _checked(x, "first"), _checked(y, "second")
    if x.shape[1] != y.shape[1]:
        raise DataError(
            f"The Fréchet distance needs features of equal dimension; got {x.shape[1]} and {y.shape[1]} dimensions."
        )
    shift = x.mean(axis=0) - y.mean(axis=0)
    factor_x, factor_y = _covariance_factor(x), _covariance_factor(y)
    common = np.linalg.svd(factor_x @ factor_y.T, compute_uv=False).sum()
    distance = shift @ shift + np.square(factor_x).sum() + np.square(factor_y).sum() - 2.0 * common
    return max(float(distance), 0.0)


def _covariance_factor(features: Float64Array) -> Float64Array:
    """R [min(n, D), D] with RᵀR the covariance of features [n, D]."""
    centred: Float64Array = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"))


def _checked(features: Array, which: str) -> Float64Array:
    values = features.detach().cpu().numpy() if isinstance(features, Tensor) else features
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise DataError(f"The {which} features have shape {list(values.shape)}; they must be [samples, dimensions].")
    if len(values) < 2:
        raise DataError(f"The Fréchet distance needs two samples or more; the {which} features are of {len(values)}.")
    if not np.isfinite(values).all():
        raise DataError(f"The {which} features hold NaN or infinite values; extract them again.")
    return values
