"""Inspect one encoded image, for `data check` and packing: its size, its fault, and its conversions."""

from __future__ import annotations

from dataclasses import dataclass

from reid_ray.data.decoding import DEFAULT, Decoding, decode_image
from reid_ray.data.headers import BrokenImage, Fault, is_truncated


@dataclass(frozen=True)
class Inspection:
    """Result of inspecting an encoded image.

    Attributes:
        height: pixels, upright; 0 where it could not be decoded.
        width: the same.
        fault: the kind of damage; None if the image is good.
        detail: description of the problem, to be placed after the file's name.
        conversions: how reading changes its pixels (`decoding.Decoded.conversions`).
    """

    height: int = 0
    width: int = 0
    fault: Fault | None = None
    detail: str = ""
    conversions: tuple[str, ...] = ()


def inspect_image(data: bytes, decoding: Decoding = DEFAULT) -> Inspection:
    """Decode an encoded image and look for its end. An image that decodes and is truncated keeps its size.

    Decoders may fill the missing end of a truncated file and report success, so a decode that succeeds is not enough:
    the end mark of the format is required as well.
    """
    try:
        decoded = decode_image(data, decoding)
    except BrokenImage as error:
        return Inspection(fault=error.fault, detail=error.detail)
    height, width = decoded.pixels.shape[1:]
    if is_truncated(data):
        return Inspection(height, width, "truncated", "ends before the image does", decoded.conversions)
    return Inspection(height, width, conversions=decoded.conversions)
