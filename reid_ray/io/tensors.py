"""Tensors in files that are there whole or not at all."""

from __future__ import annotations

from typing import Any

import torch

from reid_ray.io.files import atomic_write
from reid_ray.io.paths import Location


def save_atomically(state: Any, path: Location) -> None:
    """`torch.save` so that `path` is never half-written; `RunError` where the storage is full or gone."""
    with atomic_write(path) as file:
        torch.save(state, file)
