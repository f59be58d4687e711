"""Blocks of similarities in the fastest arithmetic of the hardware, with a bound on their error.

Products are in bfloat16 where the hardware supports it. Rows are centred first, so that the rounding error is relative
to the differences between rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reid_ray.devices import cpu_supports_bf16
from reid_ray.labels.features import blocks, read
from reid_ray.labels.neighbours.kernels import dots
from reid_ray.labels.threads import on_threads
from reid_ray.types import FeatureRows, FloatArray

ROWS_IN_CACHE = 512
"""Rows processed at a time, so that temporaries stay in the CPU cache."""

FLOAT32_UNIT = 2.0**-24
"""Largest relative error of rounding to float32."""


@dataclass(frozen=True)
class Centre:
    """Statistics of all rows that the error bound of approximate similarities needs.

    Attributes:
        mean: float32 [D].
        largest_norm: of the centred rows.
        largest_residual: largest norm of the rounding error of a centred row in bfloat16.
    """

    mean: FloatArray
    largest_norm: float
    largest_residual: float


@dataclass(frozen=True)
class Operand:
    """Rows prepared for products.

    Attributes:
        matrix: float32 [R, D], centred; rounded to bfloat16 values if products are in bfloat16.
        offsets: float32 [R], y_j·mean of each row j: product + offset of the candidate ranks the candidates of a row.
        bounds: float32 [R], bound on the error of product + offset for queries of this row.
    """

    matrix: Tensor
    offsets: FloatArray
    bounds: FloatArray

    def part(self, rows: slice) -> Operand:
        return Operand(self.matrix[rows], self.offsets[rows], self.bounds[rows])


def find_centre(features: FeatureRows) -> Centre:
    """Mean of all rows, and the largest distance of a row from it."""
    n_rows, dim = features.shape
    total = np.zeros(dim, dtype=np.float64)
    for rows in blocks(n_rows, ROWS_IN_CACHE):
        total += read(features, rows).sum(axis=0, dtype=np.float64)
    mean = (total / max(n_rows, 1)).astype(np.float32)
    largest_norm = largest_residual = 0.0
    for rows in blocks(n_rows, ROWS_IN_CACHE):
        centred = torch.from_numpy(read(features, rows) - mean)
        largest_norm = max(largest_norm, float(centred.norm(dim=1).max()))
        largest_residual = max(largest_residual, float((centred - centred.bfloat16()).norm(dim=1).max()))
    return Centre(mean, largest_norm, largest_residual)


def prepare(block: FloatArray, centre: Centre, *, bf16: bool) -> Operand:
    """Centre rows [R, D] for products.

    With y = x − mean, x_i·x_j = y_i·y_j + y_j·mean + (y_i·mean + mean·mean). The bracket is the same for all candidates
    of row i and is left out. For ỹ, y in the precision of the product, and its error r,
    |ỹ_i·ỹ_j − y_i·y_j| ≤
    |r_i||y_j| + |ỹ_i||r_j| (Cauchy-Schwarz), to which a sum of D products in float32 adds at most 2·D·2⁻²⁴·|ỹ_i||ỹ_j|.
    """
    matrix = torch.empty(block.shape, dtype=torch.float32)
    offsets, bounds = np.empty(len(block), dtype=np.float32), np.empty(len(block), dtype=np.float32)
    lost = centre.largest_residual if bf16 else 0.0
    of_norm = lost + 2 * block.shape[1] * FLOAT32_UNIT * (centre.largest_norm + lost)
    for rows in blocks(len(block), ROWS_IN_CACHE):
        centred = torch.from_numpy(block[rows] - centre.mean)
        multiplied = matrix[rows].copy_(centred.bfloat16() if bf16 else centred)
        bound = multiplied.norm(dim=1) * of_norm + 16 * FLOAT32_UNIT
        if bf16:
            bound += (centred - multiplied).norm(dim=1) * centre.largest_norm
        bounds[rows] = bound.numpy()
        on_threads(dots, len(centred), centred.numpy(), centre.mean, offsets[rows])
    return Operand(matrix, offsets, bounds)


def product(a: Tensor, b: Tensor, *, bf16: bool) -> Tensor:
    """float32 [A, B] = a @ b.T; in bfloat16 arithmetic if the operands are rounded to it."""
    if a.device.type == "cpu":
        with full_precision(bf16=bf16):
            return a @ b.T
    if bf16:
        return torch.mm(a.bfloat16(), b.bfloat16().T, out_dtype=torch.float32)
    return a @ b.T


def supports_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products."""
    if device.type != "cpu":
        return bool(torch.cuda.is_bf16_supported())
    return cpu_supports_bf16() and _cpu_products() is not None


@contextmanager
def full_precision(*, bf16: bool = False) -> Iterator[None]:
    """Float32 products on the CPU in full precision, whatever PyTorch's global setting is; or in bf16 on request."""
    setting = _cpu_products()
    before = getattr(setting, "fp32_precision", None)
    try:
        if setting is not None:
            setting.fp32_precision = "bf16" if bf16 else "ieee"
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            yield
    finally:
        if setting is not None:
            setting.fp32_precision = before


def _cpu_products() -> Any:
    """PyTorch's setting for CPU matrix products; None before version 2.9."""
    return getattr(torch.backends.mkldnn, "matmul", None)
