"""Packed datasets: the images of a table in a few large Arrow files instead of hundreds of thousands of small
ones.

A packed dataset is a folder with `table.parquet` (an `ImageTable` whose `path` is `shard-00000.arrow#17`, row
17 of that shard), the shards, and `manifest.json`. Shards are memory-mapped: any image is one page fault
away, in any order, and processes on one machine share the pages.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor
from torchvision.io import encode_png
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from reid_ray.data.images import Dataset, FileImages, ImageReader, decode
from reid_ray.data.integrity import inspect_image
from reid_ray.data.local_copy import local_copy
from reid_ray.data.table import SPLITS, ImageTable
from reid_ray.errors import DataError, StorageError
from reid_ray.locations import Location, RemotePath, location

MANIFEST = "manifest.json"
TABLE = "table.parquet"
FORMAT = "reid-ray-packed"
FORMAT_VERSION = 1

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

SHARD_SCHEMA = pa.schema([pa.field("image", pa.binary(), nullable=False)])

BATCH_IMAGES = 256
"""A shard's record batches end where the table's row is a multiple of this, and with the shard."""

_KEY = re.compile(r"(?P<shard>shard-\d{5,}\.arrow)#(?P<row>\d+)")


@dataclass(frozen=True)
class PackedImages:
    """Reads images of a packed dataset. Shards are opened when first needed, in each process anew.

    Attributes:
        root: the packed dataset's folder.
    """

    root: str
    _shards: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[PackedImages], tuple[str]]:
        return PackedImages, (self.root,)  # open files stay behind

    def read(self, path: str) -> Tensor:
        """uint8 RGB [3, H, W] of the image that `path` names; `DataError` where it cannot be read."""
        return decode(self.encoded(path), f"{self.root}/{path}")

    def encoded(self, path: str) -> bytes:
        """The image's file contents."""
        match = _KEY.fullmatch(path)
        if match is None:
            raise DataError(
                f"'{path}' is no image of the packed data {self.root}; keys look like shard-00000.arrow#17."
            )
        images = self._shard(match["shard"])
        row = int(match["row"])
        if row >= len(images):
            raise DataError(f"{self.root}/{path}: the shard has only {len(images)} images; pack the dataset again.")
        return bytes(images[row].as_py())

    def _shard(self, name: str) -> Any:
        shard = self._shards.get(name)
        if shard is None:  # two threads may both open it; either result will do
            file = location(self.root) / name
            try:
                shard = pa.ipc.open_file(pa.memory_map(str(local_copy(file)))).read_all()["image"]
            except (OSError, KeyError, pa.ArrowException) as error:
                reason = str(error).splitlines()[0].rstrip(".")
                raise DataError(f"Cannot open the shard {file} ({reason}); copy or pack the dataset again.") from error
            self._shards[name] = shard
        return shard


def pack(
    dataset: Dataset,
    out: Location,
    *,
    shard_mb: int = 256,
    size: tuple[int, int] | None = None,
    threads: int = 4,
    progress: Progress | None = None,
) -> Location:
    """Write `dataset` as a packed dataset and return its folder.

    Files are stored byte for byte as they are on disk; images that are drawn, and all images where `size` is
    given, are stored as PNG. The folder is written beside `out` under another name and renamed at the end:
    whoever sees `out` sees all of it. On an object store the manifest is put last. A failure leaves nothing behind.

    Args:
        dataset: what to pack, all splits.
        out: the folder to make; it must not exist, or be empty.
        shard_mb: a shard is closed once it holds this many MB of images.
        size: resize (bicubic) to (height, width) first, which makes reading cheaper and fixes the resolution.
        threads: threads that read and check images.
        progress: told how far packing is.

    Raises:
        DataError: `out` is in use, the dataset is empty, or an image is unreadable or truncated.
    """
    if shard_mb < 1:
        raise DataError(f"A shard of {shard_mb} MB cannot hold an image; use a shard size of at least 1 MB.")
    if not len(dataset.table):
        raise DataError(f"{dataset.table.name} has no images; there is nothing to pack.")
    refuse_used(out)
    try:
        with _becoming(out) as folder:
            _write(dataset, folder, shard_mb * 2**20, size, threads, progress)
    except OSError as error:
        raise DataError(f"Cannot write the packed dataset {out}: {error.strerror or error}.") from error
    return out


def encoded(images: ImageReader, path: str) -> bytes:
    """An image's bytes as they are stored; PNG where it is stored nowhere."""
    if isinstance(images, PackedImages):
        return images.encoded(path)
    if isinstance(images, FileImages):
        try:
            return location(path).read_bytes()
        except OSError as error:
            raise DataError(f"Cannot read the image {path}: {error.strerror or error}.") from error
    return _png(images.read(path))


def stored(images: ImageReader, path: str, size: tuple[int, int] | None = None) -> bytes:
    """An image's bytes as a shard has them, resized where `size` is given; `DataError` where the image is broken."""
    data = encoded(images, path)
    inspection = inspect_image(data)
    if inspection.fault is not None:
        raise DataError(f"Cannot pack: {path} {inspection.detail}; 'reid-ray data check' lists every such image.")
    if size is None:
        return data
    image = decode(data, path)
    return _png(resize(image, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True))


def shard_name(number: int) -> str:
    """File name of a shard; an image's key is this, `#` and its row in the shard."""
    return f"shard-{number:05d}.arrow"


def record_batch(images: Sequence[bytes]) -> pa.RecordBatch:
    """Images as a shard stores them."""
    return pa.record_batch([pa.array(images, pa.binary())], schema=SHARD_SCHEMA)


def content_digest(table: ImageTable, image_hashes: Sequence[bytes]) -> str:
    """A short hash of images, identities, cameras and splits, in the table's order, however stored."""
    sha = hashlib.sha256()
    rows = zip(image_hashes, table.pids, table.camids, table.arrow["split"].to_pylist(), strict=True)
    for image_hash, pid, camid, split in rows:
        sha.update(image_hash)
        sha.update(f"{pid} {camid} {split}\n".encode())
    return sha.hexdigest()[:16]


def read_manifest(root: Location) -> dict[str, Any]:
    """The manifest of the packed dataset `root`, its shards there and of the right size."""
    file = root / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"Cannot read {file} ({error}); {root} is no packed dataset, or not all of it was copied."
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{file} was not written by 'reid-ray data pack'; choose another data.layout.")
    if manifest.get("version") != FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {manifest.get('version')}, but {FORMAT_VERSION} is read; pack again."
        )
    for shard in manifest["shards"]:
        path = root / shard["file"]
        found = path.stat().st_size if path.is_file() else None
        if found != shard["bytes"]:
            has = "is missing" if found is None else f"has {found} bytes"
            raise DataError(
                f"{path} {has}, but {MANIFEST} says {shard['bytes']} bytes; copy or pack the dataset again."
            )
    return manifest


def read_packed_table(root: Location, manifest: dict[str, Any]) -> ImageTable:
    """The table of the packed dataset `root`, as long as its manifest says."""
    file = root / TABLE
    try:
        table = ImageTable.read(file, str(manifest["name"]))
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"Cannot read {file} ({str(error).splitlines()[0]}); copy or pack the dataset again."
        ) from error
    if len(table) != manifest["images"]:
        raise DataError(f"{file} has {len(table)} rows, {MANIFEST} says {manifest['images']}; copy or pack it again.")
    return table


@contextmanager
def _becoming(out: Location) -> Iterator[Location]:
    """A folder to fill, which is `out` when the block ends well; otherwise nothing is left of it."""
    if isinstance(out, RemotePath):
        try:
            yield out
        except BaseException:
            with suppress(StorageError):
                out.remove_tree()
            raise
        return
    partial = out.absolute().parent / f".{out.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        yield partial
        refuse_used(out)
        partial.replace(out)  # on POSIX this also replaces an empty folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_used(out: Location) -> None:
    """Raise `DataError` where `out` is there and is no empty folder."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or (isinstance(out, Path) and out.is_symlink()):
        raise DataError(f"{out} exists and is not an empty folder; choose another folder to pack into.")


def _write(
    dataset: Dataset,
    folder: Location,
    shard_bytes: int,
    size: tuple[int, int] | None,
    threads: int,
    progress: Progress | None,
) -> None:
    table = dataset.table
    keys: list[str] = []
    hashes: list[bytes] = []
    shards = _ShardWriter(folder, shard_bytes)
    with shards:
        for batch in _load(dataset, size, threads):
            keys += shards.add(batch)
            hashes += [hashlib.sha256(data).digest() for data in batch]
            if progress is not None:
                progress(len(keys), len(table))
    finish(folder, table, keys, hashes, shards.written, size)


def finish(
    folder: Location,
    table: ImageTable,
    keys: Sequence[str],
    hashes: Sequence[bytes],
    shards: Sequence[dict[str, Any]],
    size: tuple[int, int] | None,
) -> None:
    """Write table and manifest beside the shards, which makes a folder a packed dataset.

    Args:
        keys: of the images, in the table's order, as `shard_name` and row make them.
        hashes: SHA-256 of each image as it is stored.
        shards: name (`file`), number of `images` and `bytes` of each.
    """
    column = table.arrow.column_names.index("path")
    packed = table.arrow.set_column(column, table.arrow.schema.field("path"), pa.array(keys, pa.string()))
    ImageTable(packed, table.name).write(folder / TABLE)
    splits = table.arrow["split"].to_pylist()
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": table.name,
        "images": len(table),
        "splits": {split: splits.count(split) for split in SPLITS},
        "size": list(size) if size else None,
        "shards": list(shards),
        "digest": content_digest(table, hashes),
    }
    (folder / MANIFEST).write_bytes((json.dumps(manifest, indent=2) + "\n").encode())


def _load(dataset: Dataset, size: tuple[int, int] | None, threads: int) -> Iterator[list[bytes]]:
    """Batches of encoded images, in order; never more than one batch in memory."""
    paths = dataset.table.paths
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), BATCH_IMAGES):
            batch = paths[start : start + BATCH_IMAGES]
            yield list(pool.map(lambda path: stored(dataset.images, path, size), batch))


def _png(image: Tensor) -> bytes:
    return encode_png(image).numpy().tobytes()  # type: ignore[no-any-return]


class _ShardWriter:
    """Writes images to shards, one after the other."""

    def __init__(self, folder: Location, shard_bytes: int) -> None:
        self.written: list[dict[str, Any]] = []
        self._folder = folder
        self._limit = shard_bytes
        self._writer: Any = None
        self._sink: Any = None
        self._rows = 0
        self._bytes = 0

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def add(self, images: Sequence[bytes]) -> list[str]:
        """Append images and return their keys; a record batch never crosses a shard."""
        keys: list[str] = []
        while len(keys) < len(images):
            if self._writer is None:
                self._open()
            rest = images[len(keys) :]
            part = rest[: self._fitting(rest)]
            self._writer.write_batch(record_batch(part))
            keys += [f"{self._name}#{self._rows + i}" for i in range(len(part))]
            self._rows += len(part)
            self._bytes += sum(map(len, part))
            if self._bytes >= self._limit:
                self._close()
        return keys

    @property
    def _name(self) -> str:
        return shard_name(len(self.written))

    def _fitting(self, images: Sequence[bytes]) -> int:
        """How many images go into the open shard: up to the one that fills it."""
        total = self._bytes
        for n, image in enumerate(images, start=1):
            total += len(image)
            if total >= self._limit:
                return n
        return len(images)

    def _open(self) -> None:
        file = self._folder / self._name
        self._sink = file.open("wb") if isinstance(file, RemotePath) else pa.OSFile(str(file), "wb")
        self._writer = pa.ipc.new_file(self._sink, SHARD_SCHEMA)
        self._rows = self._bytes = 0

    def _close(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        n_bytes = self._sink.tell()
        self._sink.close()
        self._writer = None
        self.written.append({"file": self._name, "images": self._rows, "bytes": n_bytes})
