"""Reading packed datasets: the table, the manifest, and images in memory-mapped shards.

A packed dataset may come from an untrusted source. Nothing in it is executed, files are opened by fixed names only,
links must not lead out of its folder, and shards are validated before a row is read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from reid_ray.data.decoding import DEFAULT, Decoding
from reid_ray.data.images import decode
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.io.local_copy import local_copy
from reid_ray.io.paths import Location, as_path

MANIFEST = "manifest.json"
TABLE = "table.parquet"
FORMAT = "reid-ray-packed"
FORMAT_VERSION = 1

_SHARD = r"shard-[0-9]{5,12}\.arrow"
_KEY = re.compile(rf"(?P<shard>{_SHARD})#(?P<row>[0-9]{{1,12}})")


@dataclass(frozen=True)
class PackedImages:
    """Reads images of a packed dataset. Each process opens a shard when it first needs it.

    Attributes:
        root: the packed dataset's folder.
        decoding: settings for decoding files.
    """

    root: str
    decoding: Decoding = DEFAULT
    _shards: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[PackedImages], tuple[str, Decoding]]:
        return PackedImages, (self.root, self.decoding)  # open files are not pickled

    def read(self, path: str) -> Tensor:
        """uint8 RGB [3, H, W] of the image that `path` names; `DataError` where it cannot be read."""
        return decode(self.encoded(path), f"{self.root}/{path}", self.decoding)

    def encoded(self, path: str) -> bytes:
        """The image's file contents."""
        match = _KEY.fullmatch(path)
        if match is None:
            raise DataError(
                f"'{path}' is not an image of the packed data {self.root}; keys look like shard-00000.arrow#17."
            )
        images = self._shard(match["shard"])
        row = int(match["row"])
        if row >= len(images):
            raise DataError(f"{self.root}/{path}: the shard has only {len(images)} images; pack the dataset again.")
        return bytes(images[row].as_py())

    def _shard(self, name: str) -> Any:
        shard = self._shards.get(name)
        if shard is None:  # two threads may both open it; either result is valid
            shard = self._shards[name] = _open_shard(_member(as_path(self.root), name))
        return shard


def read_manifest(root: Location) -> dict[str, Any]:
    """The manifest of the packed dataset `root`; checks that all shards exist and have the right size."""
    file = _member(root, MANIFEST)
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"Cannot read {file} ({error}); {root} is not a packed dataset, or not all of it was copied."
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{file} was not written by 'reid-ray data pack'; choose another data.layout.")
    if manifest.get("version") != FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {manifest.get('version')}, but {FORMAT_VERSION} is read; pack again."
        )
    if not _is_complete(manifest):
        raise DataError(f"{file} is damaged: an entry is missing or has another type; copy or pack the dataset again.")
    for shard in manifest["shards"]:
        path = _member(root, shard["file"])
        found = path.stat().st_size if path.is_file() else None
        if found != shard["bytes"]:
            has = "is missing" if found is None else f"has {found} bytes"
            raise DataError(
                f"{path} {has}, but {MANIFEST} says {shard['bytes']} bytes; copy or pack the dataset again."
            )
    return manifest


def read_packed_table(root: Location, manifest: dict[str, Any]) -> ImageTable:
    """The table of the packed dataset `root`; checks its length against the manifest."""
    file = _member(root, TABLE)
    try:
        table = ImageTable.read(file, manifest["name"])
        table.arrow.validate(full=True)  # Arrow does not check that text is UTF-8
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"Cannot read {file} ({reason}); copy or pack the dataset again.") from error
    if len(table) != manifest["images"]:
        raise DataError(f"{file} has {len(table)} rows, {MANIFEST} says {manifest['images']}; copy or pack it again.")
    return table


def _is_complete(manifest: dict[str, Any]) -> bool:
    shards = manifest.get("shards")
    return (
        isinstance(manifest.get("name"), str)
        and isinstance(manifest.get("images"), int)
        and isinstance(manifest.get("digest"), str)
        and isinstance(shards, list)
        and all(isinstance(shard, dict) and isinstance(shard.get("bytes"), int) for shard in shards)
        and all(isinstance(shard.get("file"), str) and re.fullmatch(_SHARD, shard["file"]) for shard in shards)
    )


def _member(root: Location, name: str) -> Location:
    """A file of the packed dataset; `DataError` where a link leads out of its folder."""
    file = root / name
    if isinstance(root, Path) and isinstance(file, Path):
        try:
            inside = file.resolve().is_relative_to(root.resolve())
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            inside = False
        if not inside:
            raise DataError(f"{file} is a link that leads out of the packed dataset; copy the file itself there.")
    return file


def _open_shard(file: Location) -> Any:
    """The images of a shard, memory-mapped; offsets are validated, since Arrow trusts them when it reads a row."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(local_copy(file)))).read_all()
        images = table["image"]
        if images.type != pa.binary() or images.null_count:
            raise pa.ArrowInvalid("its column 'image' is not binary, or has gaps")
        images.validate(full=True)
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"Cannot open the shard {file} ({reason}); copy or pack the dataset again.") from error
    return images
