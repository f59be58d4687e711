"""Decode image files to RGB pixels with decoders that report damage instead of crashing the process.

torchvision decodes the JPEGs that cameras write: it is the fastest, and libjpeg reports errors cleanly. Its PNG decoder
crashes the process on damaged data (a long jump out of libpng), so Pillow decodes all other formats. Before either
runs, the size in the header is checked against a limit, and PNG data against its header and checksums (`headers`).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from reid_ray.config import DataConfig
from reid_ray.data.headers import (
    BrokenImage,
    Format,
    check_png,
    is_truncated,
    png_depth,
    png_size,
    read_jpeg_header,
    sniff,
    webp_size,
)

FORMATS = "JPEG, PNG, GIF, WebP, BMP, TIFF and PNM"
"""Supported formats, for messages and documentation."""

SIXTEEN_BITS = "16 bits per channel, of which the upper 8 are read"
STRETCHED = "16 bits per channel, stretched to 8 from the darkest to the brightest pixel of the image"
UPRIGHT = "turned or mirrored as the EXIF orientation says"

_PLUGINS: dict[Format, Callable[[io.BytesIO], ImageFile]] = {
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "PNM": PpmImageFile,
}
"""Classes that replace `Image.open`, which tries every registered plugin and applies a size limit of its own."""

_ORIENTATION = 0x0112
_TO_UPRIGHT: dict[int, Callable[[Tensor], Tensor]] = {
    2: lambda pixels: pixels.flip(2),
    3: lambda pixels: pixels.flip(1, 2),
    4: lambda pixels: pixels.flip(1),
    5: lambda pixels: pixels.transpose(1, 2),
    6: lambda pixels: pixels.transpose(1, 2).flip(2),
    7: lambda pixels: pixels.transpose(1, 2).flip(1, 2),
    8: lambda pixels: pixels.transpose(1, 2).flip(1),
}
"""EXIF orientation → function that turns [3, H, W] upright; 1 and unknown values are upright."""


@dataclass(frozen=True)
class Decoding:
    """Settings for decoding files.

    Attributes:
        max_megapixels: larger images are rejected before they are decoded.
        stretch_16_bit: grey images of 16 bits are stretched from their darkest to their brightest pixel, as is usual
            for thermal cameras; otherwise the upper 8 bits are read.
    """

    max_megapixels: float = 100
    stretch_16_bit: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> Decoding:
        """The decoding settings of a configuration."""
        return cls(config.max_megapixels, config.stretch_16_bit)

    def check_size(self, height: int, width: int) -> None:
        """Raise `BrokenImage` if an image of this size must not be decoded."""
        if not height or not width:
            raise BrokenImage("unreadable", f"has no pixels ({height} × {width})")
        if height * width > self.max_megapixels * 1e6:
            raise BrokenImage(
                "unreadable",
                f"has {height} × {width} pixels, more than data.max_megapixels={self.max_megapixels:g} allows",
            )


DEFAULT = Decoding()


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        pixels: uint8 RGB [3, H, W], upright, contiguous.
        conversions: descriptions of conversions that lose information or move pixels; `SIXTEEN_BITS`, `STRETCHED`,
            `UPRIGHT`.
    """

    pixels: Tensor
    conversions: tuple[str, ...] = ()


def decode_image(data: bytes, how: Decoding = DEFAULT) -> Decoded:
    """Decode a JPEG, PNG, GIF, WebP, BMP, TIFF or PNM file; the format is detected from the content, not the name.

    Grey and palette images become RGB, CMYK and YCbCr are converted, transparency is dropped. EXIF orientation is
    applied. Images of 16 bits per channel keep the upper 8 (or are stretched).

    Raises:
        BrokenImage: the file is not an image, is damaged or truncated, is too large, has several frames, or has pixels
            without a fixed range (float).
    """
    if not data:
        raise BrokenImage("empty", "is empty (0 bytes)")
    format_ = sniff(data)
    if format_ is None:
        raise BrokenImage("unreadable", f"cannot be decoded (it is not a {FORMATS.replace('and', 'or')} file)")
    if format_ == "JPEG":
        return _decode_jpeg(data, how)
    if format_ in ("PNG", "WebP"):
        how.check_size(*(png_size(data) if format_ == "PNG" else webp_size(data)))
    if format_ == "PNG":
        check_png(data)
    decoded = _decode_with(_PLUGINS[format_], data, how)
    if format_ == "PNG" and png_depth(data) == 16 and not {SIXTEEN_BITS, STRETCHED} & set(decoded.conversions):
        return Decoded(decoded.pixels, (SIXTEEN_BITS, *decoded.conversions))  # of a colour image, by Pillow
    return decoded


def convert(image: Image.Image, how: Decoding = DEFAULT) -> Decoded:
    """The pixels of a Pillow image of any mode.

    EXIF orientation is applied to an image as it was opened; one that was derived from another (`resize`, `rotate`) is
    used as is, since Pillow copies the tag whatever the operation did.

    Raises:
        BrokenImage: as `decode_image`.
    """
    how.check_size(image.height, image.width)
    try:
        if getattr(image, "is_animated", False):
            raise BrokenImage(
                "unreadable", f"is an animation of {getattr(image, 'n_frames', 'several')} frames; keep one"
            )
        as_opened = image.format is not None
        image.load()  # TIFF is turned upright by this, and its tag removed
        how.check_size(image.height, image.width)
        rgb, conversions = _to_rgb(image, how)
        if isinstance(image, TiffImageFile) and 16 in np.atleast_1d(image.tag_v2.get(BITSPERSAMPLE, 8)):
            conversions = conversions or (SIXTEEN_BITS,)
        pixels = torch.from_numpy(rgb).permute(2, 0, 1)
        return _upright(pixels, _orientation(image.getexif) if as_opened else 1, conversions)
    except BrokenImage:
        raise
    except Exception as error:  # Pillow's plugins parse in Python, and damage surfaces as any exception
        raise BrokenImage("unreadable", f"cannot be decoded ({_reason(error)})") from error


def warn_of(conversions: tuple[str, ...]) -> None:
    """Warn once per process that images lose bits; turning them upright loses nothing and is not reported."""
    for conversion in conversions:
        if conversion != UPRIGHT:
            # One text for all images: Python shows each text once.
            warnings.warn(f"There are images of {conversion}; 'reid-ray data check' counts them.", stacklevel=2)


def _decode_jpeg(data: bytes, how: Decoding) -> Decoded:
    from torchvision.io import ImageReadMode, decode_jpeg  # slow to import, and not needed for arrays

    header = read_jpeg_header(data)
    if header is None:
        raise _broken(data, "it has no JPEG frame")
    how.check_size(header.height, header.width)
    if header.common and header.n_components in (1, 3):
        try:
            pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        except RuntimeError as error:
            raise _broken(data, _reason(error)) from error
        return _upright(pixels, _orientation(lambda: _parsed(header.exif)) if header.exif else 1)
    return _decode_with(JpegImageFile, data, how)


def _decode_with(plugin: Callable[[io.BytesIO], ImageFile], data: bytes, how: Decoding) -> Decoded:
    try:
        with plugin(io.BytesIO(data)) as image:
            return convert(image, how)
    except BrokenImage as error:
        if error.fault == "unreadable" and is_truncated(data):
            raise BrokenImage("truncated", "ends before the image does") from error
        raise
    except Exception as error:  # as in `convert`
        raise _broken(data, _reason(error)) from error


def _to_rgb(image: Image.Image, how: Decoding) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """uint8 [H, W, 3], writable."""
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):
        grey, conversion = eight_bits(np.asarray(image), how)
        return np.repeat(grey[..., None], 3, axis=2), (conversion,)
    if mode == "F":
        raise BrokenImage("unreadable", "has floating point pixels, whose range is not known; convert it to 8 bits")
    if mode == "LAB":
        raise BrokenImage("unreadable", "has CIELAB pixels; convert it to RGB")
    if mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    elif mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the direct conversion gives the same, with a warning
    return np.array(image if image.mode == "RGB" else image.convert("RGB")), ()


def eight_bits(values: npt.NDArray[Any], how: Decoding) -> tuple[npt.NDArray[np.uint8], str]:
    """Convert 16-bit values of any shape to 8 bits; also returns the name of the conversion.

    Raises:
        BrokenImage: values outside 0 … 65535, whose range is unknown, without `stretch_16_bit`.
    """
    wide = values.astype(np.int64)
    low, high = int(wide.min()), int(wide.max())
    if how.stretch_16_bit:
        stretched = (wide - low) * 255.0 / max(high - low, 1)
        return np.rint(stretched).astype(np.uint8), STRETCHED
    if low < 0 or high > 0xFFFF:
        raise BrokenImage(
            "unreadable", f"has pixels from {low} to {high}, more than 16 bits; set data.stretch_16_bit=true"
        )
    return (wide >> 8).astype(np.uint8), SIXTEEN_BITS


def _upright(pixels: Tensor, orientation: int, conversions: tuple[str, ...] = ()) -> Decoded:
    turn = _TO_UPRIGHT.get(orientation)
    if turn is None:
        return Decoded(pixels.contiguous(), conversions)
    return Decoded(turn(pixels).contiguous(), (*conversions, UPRIGHT))


def _orientation(read: Callable[[], Image.Exif]) -> int:
    """The EXIF orientation; 1 where the data is damaged, as in image viewers."""
    try:
        value = read().get(_ORIENTATION, 1)
    except Exception:  # the metadata is a format of its own, parsed in Python; the pixels do not depend on it
        return 1
    return value if isinstance(value, int) else 1


def _parsed(exif: bytes) -> Image.Exif:
    parsed = Image.Exif()
    parsed.load(exif)
    return parsed


def _broken(data: bytes, reason: str) -> BrokenImage:
    if is_truncated(data):
        return BrokenImage("truncated", "ends before the image does")
    return BrokenImage("unreadable", f"cannot be decoded ({reason})")


def _reason(error: Exception) -> str:
    """The decoder's error message on one line, without source locations and buffer addresses."""
    if isinstance(error, UnidentifiedImageError):
        return "no decoder knows it"
    text = str(error).strip().partition("\n")[0]
    _, place, rest = text.rpartition(".cpp:")
    return (rest.partition(", ")[2] if place else text).rstrip(". ") or type(error).__name__
