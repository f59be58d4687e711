"""What callers hand to an evaluation, as tensors: features and ids, or a sentence about what they are instead."""

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
    """Features [N, D] as finite floats; `DataError` naming them as `name` otherwise."""
    values = floats(features)
    if values.ndim != 2:
        raise DataError(f"The {name} features have shape {list(values.shape)}; they should be [images, dimensions].")
    # Finite norms mean finite features and, by Cauchy-Schwarz, finite similarities.
    bad_rows = (~torch.linalg.vector_norm(values, dim=1).isfinite()).nonzero()
    if len(bad_rows):
        raise DataError(
            f"The {name} features hold NaN or infinity in {len(bad_rows)} of {len(values)} rows, first in "
            f"row {int(bad_rows[0])}; check the weights that made them."
        )
    return values


def whole_numbers(what: str, ids: Ids) -> Tensor:
    """Ids as int64 on the CPU. Floats that are whole are integers, as tables with gaps have them.

    Raises:
        DataError: names, fractions, NaN, ragged lists; numbers are not guessed from any of these.
    """
    values = _array(what, ids.detach().cpu().tolist() if isinstance(ids, Tensor) else ids)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise DataError(
            f"The {what} should be whole numbers, -1 where not known; these are {values.dtype}, such as "
            f"{values.flat[0]!r}. Number names with np.unique(names, return_inverse=True), those of query and gallery "
            f"together."
        )
    return torch.from_numpy(np.array(values, dtype=np.int64))


def floats(array: Array) -> Tensor:
    """As float32, or float64 where it is that."""
    if isinstance(array, Tensor):
        values = array.detach()
    else:
        numbers = _array("features", array)
        if numbers.dtype.kind not in "fiu":
            raise DataError(f"Features should be numbers; these are {numbers.dtype}.")
        with warnings.catch_warnings():
            # Arrays from Ray's object store are read-only. Nothing here writes to them, and a copy would cost
            # gigabytes.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            values = torch.from_numpy(np.ascontiguousarray(numbers))
    return values if values.dtype == torch.float64 else values.float()


def _array(what: str, values: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(
            f"The {what} are not an array ({str(error).partition('.')[0]}); give one value per row."
        ) from error
