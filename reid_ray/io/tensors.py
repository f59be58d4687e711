"""Atomic writes of tensors."""

from __future__ import annotations

from typing import Any

import torch

from reid_ray.io.files import atomic_write
from reid_ray.io.paths import Location


def save_atomically(state: Any, path: Location) -> None:
    """Atomic `torch.save`; `RunError` if the storage is full or unreachable."""
    with atomic_write(path) as file:
        torch.save(state, file)
