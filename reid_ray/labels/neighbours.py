"""Exact nearest neighbours by cosine, in blocks of rows: memory is one block of similarities, never N×N."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reid_ray.errors import DataError
from reid_ray.types import FloatArray

BLOCK_ELEMENTS = 2**26
"""Similarities held at a time: 256 MB in float32."""

NORM_TOLERANCE = 0.01
"""How far from 1 the norm of a feature may be; features normalised in bfloat16 are a thousandth off."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of each row, itself first.

    Attributes:
        indices: int32 [N, k].
        similarities: float32 [N, k], dot products; the row's with itself in column 0.
        least: float32 [N], the smallest similarity of the row to any row.
    """

    indices: npt.NDArray[np.int32]
    similarities: FloatArray
    least: FloatArray


def nearest(features: FloatArray, k: int, *, device: torch.device | str | None = None) -> Neighbours:
    """The k nearest rows of each row, by dot product of features.

    A row comes first in its own list, by definition. Others follow by similarity, descending, and at equal similarity
    by row number, as a stable sort of the whole row would give; so ties have one answer. Rows of zeros are as similar
    (0) to everything. Where k exceeds N, k is N.

    Args:
        features: float32 [N, D], L2-normalised; rows of zeros are allowed.
        device: where the product is computed; default CUDA where there is one.

    Raises:
        DataError: a feature is not finite or not normalised; the message names its row.
    """
    check_features(features)
    n_rows = len(features)
    k = min(k, n_rows)
    indices = np.empty((n_rows, k), dtype=np.int32)
    similarities = np.empty((n_rows, k), dtype=np.float32)
    least = np.empty(n_rows, dtype=np.float32)
    if not n_rows:
        return Neighbours(indices, similarities, least)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    # PyTorch wants memory that may be written to, even if it is only read; Ray's object store gives none.
    everything = torch.from_numpy(np.require(features, np.float32, ["C", "W"])).to(device)
    block = max(1, BLOCK_ELEMENTS // n_rows)
    for start in range(0, n_rows, block):
        stop = min(start + block, n_rows)
        product = everything[start:stop] @ everything.T
        least[start:stop] = product.amin(1).cpu().numpy()
        own = torch.arange(start, stop, device=device)
        own_similarity = product[own - start, own].clone()
        product[own - start, own] = torch.inf  # first, whatever duplicates there are
        values, order = _top(product, k)
        values[:, 0] = own_similarity
        indices[start:stop] = order.cpu().numpy()
        similarities[start:stop] = values.cpu().numpy()
    return Neighbours(indices, similarities, least)


def check_features(features: FloatArray) -> None:
    """Raise `DataError` for features that are not a matrix of finite rows of norm 1 or 0."""
    if features.ndim != 2:
        raise DataError(f"Features should be a matrix [N, D]; these have the shape {list(features.shape)}.")
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", features, features))
    finite = np.isfinite(norms)
    if not finite.all():
        raise DataError(
            f"The feature of row {int(np.argmin(finite))} is not finite ({int((~finite).sum())} such rows); the "
            f"network has diverged, or the file is damaged."
        )
    normalized = (np.abs(norms - 1) <= NORM_TOLERANCE) | (norms <= NORM_TOLERANCE)
    if not normalized.all():
        row = int(np.argmin(normalized))
        raise DataError(
            f"The feature of row {row} has norm {norms[row]:.3g} ({int((~normalized).sum())} such rows); divide each "
            f"feature by its L2 norm first."
        )


def _top(product: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row in stable order. `topk` breaks ties as it likes, so ties are mended."""
    n_columns = product.shape[1]
    values, order = product.topk(min(k + 1, n_columns), dim=1)
    crossing = torch.empty(0, dtype=torch.long, device=product.device)
    if n_columns > k:
        crossing = torch.nonzero(values[:, k - 1] == values[:, k]).flatten()
        values, order = values[:, :k].contiguous(), order[:, :k].contiguous()
    # Ties inside the list: by row number. Sorting by index first makes the stable sort by value do so.
    order, by_index = order.sort(dim=1)
    values, by_value = values.gather(1, by_index).sort(dim=1, descending=True, stable=True)
    order = order.gather(1, by_value)
    if len(crossing):
        all_values, all_order = product[crossing].sort(dim=1, descending=True, stable=True)
        values[crossing], order[crossing] = all_values[:, :k], all_order[:, :k]
    return values, order
