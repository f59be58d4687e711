"""From a table's `path` to pixels. A reader per kind of storage; each raises one clear error for a bad image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.locations import location


class ImageReader(Protocol):
    """Reads one image. Implementations are cheap to pickle, so that they can travel to Ray actors."""

    def read(self, path: str) -> Tensor:
        """uint8 RGB [3, H, W] of the image that `path` names; `DataError` naming it where it cannot be read."""
        ...


@dataclass(frozen=True)
class FileImages:
    """Images in files, JPEG, PNG, GIF or WebP. Table paths are file paths, or URIs in an object store."""

    def read(self, path: str) -> Tensor:
        try:
            data = location(path).read_bytes()
        except OSError as error:
            raise DataError(f"Cannot read the image {path}: {error.strerror or error}.") from error
        return decode(data, path)


def decode(data: bytes, path: str) -> Tensor:
    """Decode an encoded image to uint8 RGB [3, H, W]; `path` is for the message."""
    if not data:
        raise DataError(f"The image {path} is empty.")
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        image: Tensor = decode_image(buffer, mode=ImageReadMode.RGB)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"Cannot decode the image {path} ({reason}). 'reid-ray data check' lists every such file."
        ) from error
    return image


@dataclass(frozen=True)
class Dataset:
    """A table with the reader of its images.

    Attributes:
        table: all splits; `train` first, then `query`, then `gallery`.
        images: reads what the table's `path` names.
    """

    table: ImageTable
    images: ImageReader

    @property
    def train(self) -> ImageTable:
        return self.table.split("train")

    @property
    def query(self) -> ImageTable:
        return self.table.split("query")

    @property
    def gallery(self) -> ImageTable:
        return self.table.split("gallery")
