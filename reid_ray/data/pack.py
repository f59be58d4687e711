"""Packed datasets: the images of a table in a few large Arrow files instead of hundreds of thousands of small
ones.

A packed dataset is a folder with `table.parquet` (an `ImageTable` whose `path` is `shard-00000.arrow#17`, row
17 of that shard), the shards, and `manifest.json`. Shards are memory-mapped: any image is one page fault
away, in any order, and processes on one machine share the pages.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor
from torchvision.io import encode_png
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from reid_ray.data.decoding import DEFAULT, Decoding
from reid_ray.data.embedded_images import EmbeddedImages
from reid_ray.data.images import Dataset, FileImages, ImageReader, decode, read_file
from reid_ray.data.integrity import inspect_image
from reid_ray.data.packed_images import FORMAT, FORMAT_VERSION, MANIFEST, TABLE, PackedImages
from reid_ray.data.table import SPLITS, ImageTable
from reid_ray.errors import DataError, StorageError
from reid_ray.io.lease import LEASE, Fence, hold
from reid_ray.io.paths import Location, RemotePath

Progress = Callable[[int, int], None]
"""Called with (images done, images in total)."""

SHARD_SCHEMA = pa.schema([pa.field("image", pa.binary(), nullable=False)])

BATCH_IMAGES = 256
"""A shard's record batches end where the table's row is a multiple of this, and with the shard."""


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

    Files are stored byte for byte as they are on disk; rendered images, and all images if `size` is given, are stored
    as PNG. The folder is written next to `out` under another name and renamed at the end, so `out` is always complete.
    On an object store the manifest is written last. After a failure no files remain.

    Args:
        dataset: what to pack, all splits.
        out: the folder to create; it must be empty if it exists.
        shard_mb: a shard is closed once it holds this many MB of images.
        size: resize (bicubic) to (height, width) first, which makes reading cheaper and fixes the resolution.
        threads: threads that read and check images.
        progress: called as packing advances.

    Raises:
        DataError: `out` is in use, the dataset is empty, or an image is unreadable or truncated.
    """
    if shard_mb < 1:
        raise DataError(f"A shard of {shard_mb} MB cannot hold an image; use a shard size of at least 1 MB.")
    if not len(dataset.table):
        raise DataError(f"{dataset.table.name} has no images; there is nothing to pack.")
    refuse_used(out)
    try:
        with held(out), _becoming(out) as folder:
            _write(dataset, folder, shard_mb * 2**20, size, threads, progress)
    except OSError as error:
        raise DataError(f"Cannot write the packed dataset {out}: {error.strerror or error}.") from error
    return out


def held(out: Location) -> AbstractContextManager[Fence]:
    """Prevent other processes from packing into `out` during the block.

    The lease file is next to `out`, since `out` must be empty.
    """
    out = out.absolute()
    is_bucket = isinstance(out, RemotePath) and not out.parts
    file = out / f".{LEASE}" if is_bucket else out.with_name(f".{out.name}.{LEASE}")
    return hold(file, f"packing into {out}")


def without_bad_images(
    dataset: Dataset, *, threads: int = 4, progress: Progress | None = None
) -> tuple[Dataset, dict[str, str]]:
    """The dataset without the images that `pack` would reject, and the rejected ones in row order: path → problem."""

    def fault(path: str) -> str | None:
        try:
            return _fault(dataset.images, encoded(dataset.images, path))
        except DataError as error:
            return f"cannot be read ({str(error).rstrip('.')})"

    paths = dataset.table.paths
    faults: list[str | None] = []
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(fault, paths):
            faults.append(found)
            if progress is not None:
                progress(len(faults), len(paths))
    good = np.array([found is None for found in faults], dtype=bool)
    bad = {path: found for path, found in zip(paths, faults, strict=True) if found is not None}
    return Dataset(dataset.table.where(good), dataset.images), bad


def encoded(images: ImageReader, path: str) -> bytes:
    """An image's encoded bytes; PNG if the image is not stored in a file."""
    if isinstance(images, (PackedImages, EmbeddedImages)):
        return images.encoded(path)
    if isinstance(images, FileImages):
        return read_file(path)
    return _png(images.read(path))


def stored(images: ImageReader, path: str, size: tuple[int, int] | None = None) -> bytes:
    """An image's bytes for a shard, resized if `size` is given; `DataError` if the image is broken."""
    data = encoded(images, path)
    fault = _fault(images, data)
    if fault is not None:
        raise DataError(
            f"Cannot pack: {path} {fault}; 'reid-ray data check' lists every such image, --skip-bad leaves them out."
        )
    if size is None:
        return data
    image = decode(data, path, decoding_of(images))
    return _png(resize(image, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True))


def decoding_of(images: ImageReader) -> Decoding:
    """Decoding settings of a reader; the default if it renders its images."""
    return images.decoding if isinstance(images, (FileImages, PackedImages, EmbeddedImages)) else DEFAULT


def _fault(images: ImageReader, data: bytes) -> str | None:
    """Problem of an encoded image, to be placed after its name; None if the image is good."""
    inspection = inspect_image(data, decoding_of(images))
    return None if inspection.fault is None else inspection.detail


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


@contextmanager
def _becoming(out: Location) -> Iterator[Location]:
    """A folder to fill, which becomes `out` if the block succeeds and is removed otherwise."""
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
    """Raise `DataError` if `out` exists and is not an empty folder."""
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
    """Write table and manifest next to the shards, which completes a packed dataset.

    Args:
        keys: of the images, in row order: `shard_name`, `#` and the row in the shard.
        hashes: SHA-256 of each image as stored.
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
    """Batches of encoded images, in order; one batch at a time is in memory."""
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
        """Number of images that go into the open shard, up to and including the one that fills it."""
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
