"""Blocks of similarities as the hardware computes them fastest, with a bound on their error.

Products are in bfloat16 where the hardware gains from it, of rows with the common mean taken off, so that rounding is
relative to what tells rows apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reid_ray.labels.features import blocks, read
from reid_ray.labels.neighbours.kernels import dots
from reid_ray.labels.threads import on_threads
from reid_ray.types import FeatureRows, FloatArray

ROWS_IN_CACHE = 512
"""Rows worked on at a time: what is made of them on the way should not leave the processor's cache."""

FLOAT32_UNIT = 2.0**-24
"""Largest relative error of rounding to float32."""


@dataclass(frozen=True)
class Centre:
    """What the bound on approximate similarities needs to know of all rows.

    Attributes:
        mean: float32 [D].
        largest_norm: of the centred rows.
        largest_residual: norm of what a centred row loses in bfloat16.
    """

    mean: FloatArray
    largest_norm: float
    largest_residual: float


@dataclass(frozen=True)
class Operand:
    """Some rows, ready to be multiplied.

    Attributes:
        matrix: float32 [R, D], centred; rounded to bfloat16 where products are.
        offsets: float32 [R], what products with the row lack of similarities, but for what depends on the other row.
        bounds: float32 [R], largest error of a product with the row plus the other's offset.
    """

    matrix: Tensor
    offsets: FloatArray
    bounds: FloatArray

    def part(self, rows: slice) -> Operand:
        return Operand(self.matrix[rows], self.offsets[rows], self.bounds[rows])


def find_centre(features: FeatureRows) -> Centre:
    """Mean of all rows, and how far rows are from it."""
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

    With y = x − mean, x_i·x_j = y_i·y_j + y_j·mean + (y_i·mean + mean·mean). The bracket is common to all candidates of
    row i and left out. For ỹ, y as it is multiplied, and its error r, |ỹ_i·ỹ_j − y_i·y_j| ≤ |r_i||y_j| + |ỹ_i||r_j|
    (Cauchy-Schwarz), to which a sum of D products in float32 adds at most 2·D·2⁻²⁴·|ỹ_i||ỹ_j|.
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
    """float32 [A, B] = a @ b.T, through bfloat16 units where the operands have been rounded to it."""
    if a.device.type == "cpu":
        with full_precision(bf16=bf16):
            return a @ b.T
    if bf16:
        return torch.mm(a.bfloat16(), b.bfloat16().T, out_dtype=torch.float32)
    return a @ b.T


def gains_from_bf16(device: torch.device) -> bool:
    """Whether the processor has instructions for bfloat16 products."""
    if device.type != "cpu":
        return bool(torch.cuda.is_bf16_supported())
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16")) and _cpu_products() is not None


@contextmanager
def full_precision(*, bf16: bool = False) -> Iterator[None]:
    """float32 products on the CPU that are what they say, whatever training has allowed itself; or, asked for, bf16."""
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
    """PyTorch's setting for products on the CPU, or None before version 2.9."""
    return getattr(torch.backends.mkldnn, "matmul", None)
