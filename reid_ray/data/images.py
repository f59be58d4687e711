"""Read pixels by a table's `path`. One reader per kind of storage; each raises a one-line error for a bad image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from reid_ray.data.decoding import DEFAULT, Decoding, decode_image, warn_of
from reid_ray.data.headers import BrokenImage
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.io.paths import Location, as_path


class ImageReader(Protocol):
    """Reads one image. Implementations are cheap to pickle, so that they can be sent to Ray actors."""

    def read(self, path: str) -> Tensor:
        """uint8 RGB [3, H, W] of the image that `path` names; `DataError` naming it where it cannot be read."""
        ...


@dataclass(frozen=True)
class FileImages:
    """Images in files of any format that `decoding` reads. Table paths are file paths, or URIs in an object store.

    Attributes:
        decoding: settings for decoding files.
    """

    decoding: Decoding = DEFAULT

    def read(self, path: str) -> Tensor:
        return decode(read_file(path), path, self.decoding)


def read_file(path: str) -> bytes:
    """The content of an image file; `DataError` naming it where it cannot be read."""
    try:
        return as_path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise DataError(
            f"Cannot read the image {printable(path)}: {getattr(error, 'strerror', None) or error}."
        ) from error


def decode(data: bytes, path: str, decoding: Decoding = DEFAULT) -> Tensor:
    """Decode an encoded image to uint8 RGB [3, H, W]; `path` is for the message."""
    try:
        decoded = decode_image(data, decoding)
    except BrokenImage as error:
        raise DataError(
            f"Cannot decode the image {printable(path)}: it {error.detail}. 'reid-ray data check' lists every such "
            f"file."
        ) from error
    warn_of(decoded.conversions)
    return decoded.pixels


def printable(path: Location | str) -> str:
    """The path as one line of printable text; undecodable bytes and control characters are escaped."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
