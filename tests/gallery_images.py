"""Images and names for tests of the cluster gallery."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reid_ray.errors import DataError

NASTY = [
    "</script><script>alert(1)</script>",
    "a\"b'c&amp;.jpg",
    "two\nlines.jpg",
    "\u202egpj.exe",
    "\u05d0\u05d1.jpg",
    "<!--",
]


@dataclass(frozen=True)
class Grey:
    """An image whose brightness is its number; odd heights, so that it is resized."""

    unreadable: tuple[str, ...] = ()

    def read(self, path: str) -> torch.Tensor:
        if path in self.unreadable:
            raise DataError(f"Cannot read the image {path!r}.")
        value = 10 * int(path) if path.isdigit() else 50
        return torch.full((3, 40, 20), value, dtype=torch.uint8)
