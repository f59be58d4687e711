"""Many thumbnails in few files: sheets of a grid of crops, which a page loads when it shows them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reid_ray.data.images import ImageReader
from reid_ray.data.views import resize
from reid_ray.errors import DataError
from reid_ray.io.files import atomic_write_bytes
from reid_ray.io.paths import Location

COLUMNS, LINES = 16, 8
QUALITY = 80
BROKEN_GREY = 128


@dataclass(frozen=True)
class Sprites:
    """Where a thumbnail is: number i is on sheet i // (columns · lines), in row-major order.

    Attributes:
        names: of the sheets.
        height, width: of a thumbnail, pixels.
        columns, lines: of a sheet.
    """

    names: list[str]
    height: int
    width: int
    columns: int = COLUMNS
    lines: int = LINES


def write_sprites(
    images: ImageReader,
    paths: Sequence[str],
    folder: Location,
    *,
    height: int,
    width: int,
    on_images: Callable[[int], None] | None = None,
) -> Sprites:
    """Write JPEG sheets of the images, in their order, to a folder.

    An image that cannot be read is a grey field.

    Args:
        on_images: called with the number of images of each sheet.

    Raises:
        DataError: not one image can be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    n_read, error = 0, None
    with ThreadPoolExecutor(thread_name_prefix="reid-sprites") as threads:
        for first in range(0, len(paths), COLUMNS * LINES):
            part = paths[first : first + COLUMNS * LINES]
            sheet = torch.zeros(
                3, height * -(-len(part) // COLUMNS), width * min(COLUMNS, len(part)), dtype=torch.uint8
            )
            for at, found in enumerate(threads.map(lambda path: _thumbnail(images, path, height, width), part)):
                error, n_read = (found, n_read) if isinstance(found, DataError) else (error, n_read + 1)
                top, left = at // COLUMNS * height, at % COLUMNS * width
                pixels = BROKEN_GREY if isinstance(found, DataError) else found
                sheet[:, top : top + height, left : left + width] = pixels
            names.append(f"{len(names):04d}.jpg")
            atomic_write_bytes(folder / names[-1], _jpeg(sheet))
            if on_images:
                on_images(len(part))
    if error is not None and not n_read:
        raise error
    return Sprites(names, height, width)


def _thumbnail(images: ImageReader, path: str, height: int, width: int) -> Tensor | DataError:
    try:
        return resize(images.read(path), height, width)
    except DataError as error:
        return error


def _jpeg(pixels: Tensor) -> bytes:
    buffer = io.BytesIO()
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    Image.fromarray(array).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
