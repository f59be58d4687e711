"""Crops on pages: embedded images, and captions with camera and time."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import NamedTuple

from torch import Tensor
from torchvision.io import encode_jpeg

from reid_ray.data.table import ImageTable
from reid_ray.data.views import resize
from reid_ray.types import UNKNOWN

IMAGE_HEIGHT = 192
"""Height of embedded crops, pixels."""

JPEG_QUALITY = 85


class EmbeddedImage(NamedTuple):
    """An image for the attribute `src` of an HTML element, and its size in pixels."""

    uri: str
    width: int
    height: int


def embedded(image: Tensor) -> EmbeddedImage:
    """A crop, uint8 RGB [3, h, w], as a JPEG of height `IMAGE_HEIGHT` in a data URI."""
    width = max(1, round(image.shape[2] * IMAGE_HEIGHT / image.shape[1]))
    jpeg = encode_jpeg(resize(image, IMAGE_HEIGHT, width), JPEG_QUALITY).numpy().tobytes()
    return EmbeddedImage(f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}", width, IMAGE_HEIGHT)


def where_and_when(table: ImageTable, row: int) -> list[str]:
    """Camera, date and time of day of an image, a text each; what is not known is left out."""
    camera, time = int(table.camids[row]), table.times[row]
    return ([] if camera == UNKNOWN else [f"camera {camera}"]) + ([] if time is None else time_text(time).split(" "))


def time_text(time: datetime) -> str:
    """Date and time to the second, as in `2024-05-01 12:03:07`."""
    return time.isoformat(sep=" ", timespec="seconds")
