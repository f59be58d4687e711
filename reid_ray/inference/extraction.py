"""Retrieval features of a table, in fixed batches: features do not depend on which process extracts which batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from reid_ray.data.loader import ImageCache, prefetch
from reid_ray.data.table import ImageTable
from reid_ray.data.views import PixelBatch, View, collate
from reid_ray.types import FloatArray, IntArray

COPY_KEY = 0xCAC4E
"""Last part of the random key of an augmented copy, which differs from the keys of training views."""

Load = Callable[[range], PixelBatch]


def batch_rows(n_rows: int, batch_size: int) -> list[range]:
    """Split rows 0 … n_rows−1 into batches; the last may be smaller."""
    return [range(start, min(start + batch_size, n_rows)) for start in range(0, n_rows, batch_size)]


def extract(
    model: nn.Module,
    load: Load,
    batches: Sequence[range],
    *,
    device: torch.device,
    columns: Mapping[str, IntArray] | None = None,
    n_threads: int = 1,
    on_batch: Callable[[int], None] | None = None,
) -> list[FloatArray]:
    """Features of batches of rows, each float32 [len(batch), D].

    Args:
        model: has `embed(images, **columns) -> [n, D]`; from `for_extraction`.
        load: rows → images, such as `ImageCache.batch`.
        columns: columns of the whole table that the model reads (`model_columns`).
        on_batch: called with the number of images after each batch, for a progress bar.
    """
    features = []
    for rows, images in zip(batches, prefetch(load, batches, n_threads=n_threads), strict=True):
        own = {name: values[rows.start : rows.stop] for name, values in (columns or {}).items()}
        features.append(embed_batch(model, images, device=device, columns=own))
        if on_batch:
            on_batch(len(rows))
    return features


@torch.inference_mode()
def embed_batch(
    model: nn.Module, images: PixelBatch, *, device: torch.device, columns: Mapping[str, IntArray] | None = None
) -> FloatArray:
    """Images [n, 3, H, W] → float32 features [n, D]."""
    dtype = next(model.parameters()).dtype
    embed: Callable[..., Tensor] = model.embed  # type: ignore[assignment]
    known = {name: torch.tensor(values, device=device) for name, values in (columns or {}).items()}
    return np.asarray(embed(images.to(device, dtype), **known).float().cpu().numpy())


def model_columns(model: nn.Module, table: ImageTable) -> dict[str, IntArray]:
    """The table columns that a model reads in addition to images; `DataError` if the table lacks one."""
    names: Sequence[str] = getattr(model, "columns", ())
    return {name: table.column(name) for name in names}


def augmented(cache: ImageCache, view: View, seed: int, copy: int) -> Load:
    """A loader of augmented copy number `copy` of each image; the same pixels in any process."""

    def load(rows: range) -> PixelBatch:
        rngs = [np.random.default_rng([seed, copy, row, COPY_KEY]) for row in rows]
        return collate([view(cache.image(row), rng) for row, rng in zip(rows, rngs, strict=True)])

    return load


def assemble(parts: Sequence[FloatArray]) -> FloatArray:
    """Concatenate batches to float32 [N, D]; [0, 0] without batches."""
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)
