"""Crop people from a frame by the boxes of a detector."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from reid_ray.data.arrays import AnyImage, Channels, to_pixels
from reid_ray.errors import DataError


def crop_boxes(frame: AnyImage, boxes: npt.ArrayLike, *, channels: Channels = "rgb") -> list[Tensor]:
    """The crop of a frame in each box, uint8 RGB [3, h, w].

    Args:
        frame: one image of any kind.
        boxes: [N, 4]: left, top, right, bottom, pixels; fractions are rounded outwards, and boxes are clipped to the
            frame.
        channels: order of the channels of a frame that is an array or a tensor.

    Raises:
        DataError: an unreadable frame, boxes of another shape, or a box without a pixel of the frame.
    """
    pixels = to_pixels(frame, channels=channels, name="the frame")
    corners = np.asarray(boxes, dtype=np.float64)
    if not corners.size:
        return []
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise DataError(f"Boxes are [N, 4] (left, top, right, bottom), not {list(corners.shape)}.")
    height, width = pixels.shape[-2:]
    crops = []
    for i, box in enumerate(corners):
        if not np.isfinite(box).all():
            raise DataError(f"Box {i} is {box.tolist()}; corners must be finite.")
        left, top = np.floor(box[:2]).astype(int).clip(min=0)
        right, bottom = np.ceil(box[2:]).astype(int).clip(max=(width, height))
        if left >= right or top >= bottom:
            raise DataError(f"Box {i}, {box.tolist()}, holds no pixel of the frame of {width}×{height}; leave it out.")
        crops.append(pixels[:, top:bottom, left:right])
    return crops
