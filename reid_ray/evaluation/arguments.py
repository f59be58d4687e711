"""Validation of features and ids passed to an evaluation; converts them to tensors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reid_ray.errors import DataError

Array: TypeAlias = npt.NDArray[Any] | Tensor
Ids: TypeAlias = npt.NDArray[Any] | Tensor | Sequence[int]


def feature_matrix(name: str, features: Array) -> Tensor:
    """Features [N, D] as finite floats; `DataError`, with `name` in its message, for anything else."""
    values = floats(features)
    if values.ndim != 2:
        raise DataError(f"The {name} features have shape {list(values.shape)}; they must be [images, dimensions].")
    # Finite norms mean finite features and, by Cauchy-Schwarz, finite similarities.
    bad_rows = (~torch.linalg.vector_norm(values, dim=1).isfinite()).nonzero()
    if len(bad_rows):
        raise DataError(
            f"The {name} features hold NaN or infinity in {len(bad_rows)} of {len(values)} rows, first in "
            f"row {int(bad_rows[0])}; check the weights of the network."
        )
    return values


def whole_numbers(what: str, ids: Ids) -> Tensor:
    """Ids as int64 on the CPU. Whole floats are accepted, as in tables with missing values.

    Raises:
        DataError: names, fractions, NaN, ragged lists; none of these is converted.
    """
    values = _array(what, ids.detach().cpu().tolist() if isinstance(ids, Tensor) else ids)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise DataError(
            f"The {what} must be whole numbers, -1 for unknown; got {values.dtype}, such as "
            f"{values.flat[0]!r}. Map names to numbers with np.unique(names, return_inverse=True), for query and "
            f"gallery together."
        )
    return torch.from_numpy(np.array(values, dtype=np.int64))


def floats(array: Array) -> Tensor:
    """As float32; float64 is kept."""
    if isinstance(array, Tensor):
        values = array.detach()
    else:
        numbers = _array("features", array)
        if numbers.dtype.kind not in "fiu":
            raise DataError(f"Features must be numbers; got {numbers.dtype}.")
        with warnings.catch_warnings():
            # Arrays from Ray's object store are read-only. Nothing here writes to them; a copy would cost gigabytes.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            values = torch.from_numpy(np.ascontiguousarray(numbers))
    return values if values.dtype == torch.float64 else values.float()


def _array(what: str, values: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(
            f"The {what} are not an array ({str(error).partition('.')[0]}); pass one value per row."
        ) from error
