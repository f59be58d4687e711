"""Convert images of any kind (arrays, tensors, Pillow images, encoded bytes, paths) to the pixels that a file gives.

The pixels do not reveal whether channels are RGB or BGR. OpenCV's arrays are BGR and all others are RGB, so arrays and
tensors are taken as RGB unless the caller states otherwise; features of swapped channels look plausible and match
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from reid_ray.data.decoding import DEFAULT, Decoding, convert, decode_image, eight_bits, warn_of
from reid_ray.data.headers import BrokenImage
from reid_ray.data.images import FileImages
from reid_ray.data.views import resize
from reid_ray.errors import DataError
from reid_ray.io.paths import RemotePath

Channels = Literal["rgb", "bgr"]
AnyImage: TypeAlias = str | Path | RemotePath | bytes | Image.Image | npt.NDArray[Any] | Tensor
"""One image: a path or URI, an encoded file, a Pillow image, an array [h, w] or [h, w, c], a tensor [c, h, w]."""

_N_CHANNELS = (1, 3, 4)


def each_image(images: AnyImage | Iterable[AnyImage]) -> Iterator[Any]:
    """List the images of an argument that may be one image, a batch [n, …], or any iterable of images.

    A path, bytes and a Pillow image are one image, and so are arrays and tensors of up to three dimensions.

    Raises:
        DataError: the argument is none of these.
    """
    if isinstance(images, (str, Path, RemotePath, bytes, bytearray, memoryview, Image.Image)):
        return iter([images])
    if isinstance(images, (np.ndarray, Tensor)):
        return iter([images] if images.ndim < 4 else images)
    if isinstance(images, Iterable) and not isinstance(images, dict):
        return iter(images)
    raise DataError(f"A {type(images).__name__} is neither an image nor a list of images; {_accepted()}.")


def resized_images(
    images: AnyImage | Iterable[AnyImage],
    height: int,
    width: int,
    *,
    channels: Channels = "rgb",
    decoding: Decoding = DEFAULT,
) -> Iterator[Tensor]:
    """Yield images of any size and kind as network input: uint8 RGB [3, height, width].

    Raises:
        DataError: an image that cannot be read, named by its number (`to_pixels`).
    """
    for i, image in enumerate(each_image(images)):
        yield resize(to_pixels(image, channels=channels, decoding=decoding, name=f"image {i}"), height, width)


def to_pixels(
    image: AnyImage, *, channels: Channels = "rgb", decoding: Decoding = DEFAULT, name: str = "the image"
) -> Tensor:
    """uint8 RGB [3, h, w] of one image.

    Args:
        image: a path or URI, an encoded file, a Pillow image of any mode, an array uint8 [h, w], [h, w, 1], [h, w,
            3] or [h, w, 4], or a tensor uint8 with the channels first. Of four channels the last is transparency,
            which is dropped. uint16 is converted like 16-bit files.
        channels: order of the channels of arrays and tensors. Files, bytes and Pillow images know their own.
        decoding: how files become pixels.
        name: what the image is called in messages.

    Raises:
        DataError: another type or shape, no pixels, or an image that cannot be decoded.
    """
    if channels not in get_args(Channels):
        raise DataError(f"channels={channels!r}: use {' or '.join(map(repr, get_args(Channels)))}.")
    if isinstance(image, (str, Path, RemotePath)):
        return FileImages(decoding).read(str(image))
    try:
        if isinstance(image, (bytes, bytearray, memoryview)):
            decoded = decode_image(bytes(image), decoding)
        elif isinstance(image, Image.Image):
            decoded = convert(image, decoding)
        elif isinstance(image, Tensor):
            return _from_array(image.detach().cpu().numpy(), channels, decoding, name, channels_first=True)
        else:
            return _from_array(_as_array(image, name), channels, decoding, name, channels_first=False)
    except BrokenImage as error:
        raise DataError(f"Cannot read {name}: it {error.detail}.") from error
    warn_of(decoded.conversions)
    return decoded.pixels


def _as_array(image: Any, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(image)
    except Exception as error:  # whatever an object's own conversion raises
        raise DataError(
            f"Cannot read {name}, a {type(image).__name__}, as an array ({error}); {_accepted()}."
        ) from error


def _from_array(
    array: npt.NDArray[Any], channels: Channels, decoding: Decoding, name: str, *, channels_first: bool
) -> Tensor:
    shape = f"{array.dtype} {list(array.shape)}"
    if array.dtype not in (np.uint8, np.uint16):
        advice = "give 0 … 255 as uint8" if array.dtype.kind in "fiub" else _accepted()
        raise DataError(f"Cannot read {name}: {shape} has no standard range of pixel values; {advice}.")
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and channels_first:
        array = np.moveaxis(array, 0, 2)
    if array.ndim != 3 or array.shape[2] not in _N_CHANNELS:
        expected = "[c, h, w]" if channels_first else "[h, w, c]"
        raise DataError(
            f"Cannot read {name}: {shape} is not an image; give [h, w] or {expected} with 1, 3 or 4 channels."
        )
    if not array.size:
        raise DataError(f"Cannot read {name}: {shape} has no pixels.")
    if array.dtype == np.uint16:
        array, conversion = eight_bits(array, decoding)
        warn_of((conversion,))
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    array = array[..., :3] if channels == "rgb" else array[..., 2::-1]
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, 2, 0)).copy())


def _accepted() -> str:
    return "give paths, encoded bytes, Pillow images, or arrays and tensors of uint8"
