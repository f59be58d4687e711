"""Retrieval features of a table, in fixed batches: who extracts which batch never changes a feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from reid_ray.data.loader import ImageBank, prefetch
from reid_ray.types import FloatArray


def batch_rows(n_rows: int, batch_size: int) -> list[range]:
    """Cut rows 0 … n_rows−1 into batches; the last may be smaller."""
    return [range(start, min(start + batch_size, n_rows)) for start in range(0, n_rows, batch_size)]


def extract(
    model: nn.Module,
    bank: ImageBank,
    batches: Sequence[range],
    *,
    device: torch.device,
    n_threads: int = 1,
    on_batch: Callable[[int], None] | None = None,
) -> list[FloatArray]:
    """L2-normalised features of some batches of rows, each float32 [len(batch), D].


    Args:
        model: has `embed(images) -> [n, D]`; as `for_extraction` gives it.
        on_batch: called with the number of images after each batch, for a progress bar.
    """
    dtype = next(model.parameters()).dtype
    features = []
    for images in prefetch(bank.normalized, batches, n_threads=n_threads):
        features.append(embed_batch(model, images, device=device, dtype=dtype))
        if on_batch:
            on_batch(len(images))
    return features


@torch.inference_mode()
def embed_batch(model: nn.Module, images: Tensor, *, device: torch.device, dtype: torch.dtype) -> FloatArray:
    """Normalised images [n, 3, H, W] → float32 features [n, D]."""
    images = images.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    embed: Callable[[Tensor], Tensor] = model.embed  # type: ignore[assignment]
    return np.asarray(embed(images).float().cpu().numpy())


def assemble(parts: Sequence[FloatArray]) -> FloatArray:
    """Stack batches in order to float32 [N, D]; no batch at all gives [0, 0]."""
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)
