"""`data.pack` by many processes on many nodes: images flow through Ray Data into shards, and a later call goes on.

    sizes of all images (tasks) ─► which rows make a shard ─► read, check, write a shard (tasks) ─► table and manifest

The folder is the same, to the last byte, as that of `data.pack.pack`, whose shards end where they are full: so sizes
are asked for first. Until it is whole it lies beside `out`, with each shard that is done and the hashes of its images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import DataContext, TaskPoolStrategy

from reid_ray.data.feature_folder import table_digest
from reid_ray.data.images import Dataset, FileImages, ImageReader
from reid_ray.data.pack import (
    BATCH_IMAGES,
    SHARD_SCHEMA,
    Progress,
    finish,
    held,
    record_batch,
    refuse_used,
    shard_name,
    stored,
)
from reid_ray.errors import DataError
from reid_ray.io.files import atomic_write, atomic_write_bytes, storage_errors
from reid_ray.io.paths import Location, RemotePath, as_path, as_readable
from reid_ray.runtime.cluster import joined
from reid_ray.runtime.dataflow import Batch, carrying, quiet, quiet_context, rows_of
from reid_ray.runtime.labelling import fetch
from reid_ray.runtime.shared import check_shared

PLAN = "_plan.json"
ROWS = "_rows.parquet"

ROW_GROUP = 8192
"""Rows of the table that are read at once, and whose images one task measures."""

HASH_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Packing:
    """A packed dataset while it is made. Small: it travels to those who make its shards.

    Attributes:
        folder: where it lies until it is whole; must be seen by all who make shards.
        images: reads what the table's `path` names.
        size: height and width that images are resized to; None keeps their files as they are.
        starts: first row of each shard, and behind them the number of rows.
    """

    folder: Location
    images: ImageReader
    size: tuple[int, int] | None
    starts: tuple[int, ...]

    @property
    def n_shards(self) -> int:
        return len(self.starts) - 1

    def rows(self, shard: int) -> range:
        return range(self.starts[shard], self.starts[shard + 1])

    def hashes_file(self, shard: int) -> Location:
        """SHA-256 of a shard's images, one after another; written after the shard, it says that this is whole."""
        return self.folder / f"_{shard_name(shard)}.sha256"

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be made."""
        return [shard for shard in range(self.n_shards) if not self.hashes_file(shard).exists()]

    def write(self, shard: int) -> None:
        """Read, check and write the images of a shard, in the record batches of `data.pack.pack`."""
        rows = self.rows(shard)
        paths = read_paths(self.folder, rows)
        hashes = []
        with atomic_write(self.folder / shard_name(shard)) as file, pa.ipc.new_file(file, SHARD_SCHEMA) as writer:
            for start, stop in _batches(rows):
                images = [
                    stored(self.images, path, self.size) for path in paths[start - rows.start : stop - rows.start]
                ]
                writer.write_batch(record_batch(images))
                hashes += [hashlib.sha256(data).digest() for data in images]
        atomic_write_bytes(self.hashes_file(shard), b"".join(hashes))


def pack_on_ray(
    dataset: Dataset,
    out: Location,
    *,
    shard_mb: int = 256,
    size: tuple[int, int] | None = None,
    n_packers: int = 1,
    address: str | None = None,
    progress: Progress | None = None,
) -> Location:
    """Write `dataset` as a packed dataset and return its folder, or go on where a call before was stopped.

    Args:
        out: the folder to make; it must not exist, or be empty. Like the images, on storage that every node sees.
        shard_mb, size: as in `data.pack.pack`. With `size` each image is encoded twice, once to know its bytes.
        n_packers: tasks that read and write at the same time, a CPU each.
        address: Ray cluster to join; None starts a local one, or joins that of `RAY_ADDRESS`.
        progress: told how far packing is.

    Raises:
        DataError: `out` is in use, the dataset is empty, an image is unreadable or truncated, or what a call before has
            left beside `out` is of other images or settings.
        RunError: the cluster is not there, or the storage gives out.
    """
    if not len(dataset.table):
        raise DataError(f"{dataset.table.name} has no images; there is nothing to pack.")
    with held(out):
        return _pack(
            dataset, out, shard_mb=shard_mb, size=size, n_packers=n_packers, address=address, progress=progress
        )


def _pack(
    dataset: Dataset,
    out: Location,
    *,
    shard_mb: int,
    size: tuple[int, int] | None,
    n_packers: int,
    address: str | None,
    progress: Progress | None,
) -> Location:
    """`pack_on_ray` of some images into a folder that no other process fills."""
    # Folders of an object store cannot be renamed: there the manifest, which is put last, makes it a packed dataset.
    folder = out if isinstance(out, RemotePath) else out.absolute().with_name(f".{out.name}.packing")
    if folder != out or not (folder / PLAN).exists():
        refuse_used(out)
    request = {"table": table_digest(dataset.table), "shard_mb": shard_mb, "size": list(size) if size else None}
    known = _begin(folder, dataset, request)
    with quiet(), joined(address, num_cpus=n_packers, leftovers=folder):
        check_shared(folder)
        if known is None:
            sizes = _measure(folder, dataset, size)
            known = tuple(cut(sizes, shard_mb * 2**20))
            atomic_write_bytes(folder / PLAN, json.dumps({**request, "starts": known}).encode())
        packing = Packing(folder, dataset.images, size, known)
        n_done = len(dataset.table)
        todo = packing.missing()
        n_done -= sum(len(packing.rows(shard)) for shard in todo)
        for row in _flow(packing, todo, n_packers):
            n_done += row["n"]
            if progress is not None:
                progress(n_done, len(dataset.table))
    _finish(packing, dataset)
    if not (isinstance(folder, RemotePath) or isinstance(out, RemotePath)):
        with storage_errors(out):
            refuse_used(out)
            folder.replace(out)
    return out


def cut(sizes: Sequence[int], limit: int) -> Iterator[int]:
    """Where shards begin that are closed once they hold `limit` bytes, and at last the number of images."""
    yield 0
    held = 0
    for i, size in enumerate(sizes):
        held += size
        if held >= limit and i + 1 < len(sizes):
            yield i + 1
            held = 0
    yield len(sizes)


def read_paths(folder: Location, rows: range) -> list[str]:
    """The paths of some rows, from the row groups in which they lie."""
    first, last = rows.start // ROW_GROUP, (rows.stop - 1) // ROW_GROUP
    try:
        table = pq.ParquetFile(as_readable(folder / ROWS)).read_row_groups(range(first, last + 1), columns=["path"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"Cannot read {folder / ROWS} ({error}); the folder must lie on storage that every node sees."
        ) from error
    paths: list[str] = table["path"].slice(rows.start - first * ROW_GROUP, len(rows)).to_pylist()
    return paths


def measure(folder: Location, rows: range, images: ImageReader, size: tuple[int, int] | None) -> npt.NDArray[np.int64]:
    """Bytes that some images will have in a shard; of files that stay as they are the file system knows them."""
    paths = read_paths(folder, rows)
    if size is not None or not isinstance(images, FileImages):
        return np.array([len(stored(images, path, size)) for path in paths], dtype=np.int64)
    try:
        return np.array([as_path(path).stat().st_size for path in paths], dtype=np.int64)
    except OSError as error:
        raise DataError(f"Cannot read the image {error.filename}: {error.strerror}.") from error


def _begin(folder: Location, dataset: Dataset, request: dict[str, Any]) -> tuple[int, ...] | None:
    """Make the folder with the table in it; or find the shards of a call before, where that wanted the same."""
    plan = folder / PLAN
    if plan.exists():
        before = json.loads(plan.read_text(encoding="utf-8"))
        starts = before.pop("starts")
        if before != request:
            raise DataError(
                f"{folder} holds what another 'data pack' has left, of other images or settings; remove it, or choose "
                f"another folder to pack into."
            )
        return tuple(starts)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / ROWS) as file:
        pq.write_table(dataset.table.arrow, file, row_group_size=ROW_GROUP)
    return None


def _measure(folder: Location, dataset: Dataset, size: tuple[int, int] | None) -> list[int]:
    """Bytes of all images, asked for by tasks."""
    task, n_rows = ray.remote(measure), len(dataset.table)
    ranges = (range(start, min(start + ROW_GROUP, n_rows)) for start in range(0, n_rows, ROW_GROUP))
    parts = fetch([task.remote(folder, rows, dataset.images, size) for rows in ranges])
    sizes: list[int] = np.concatenate(parts).tolist()
    return sizes


def _flow(packing: Packing, todo: list[int], n_packers: int) -> Iterator[dict[str, Any]]:
    """A row for each shard, as they are done."""
    if not todo:
        return
    with DataContext.current(quiet_context()):
        shards = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo))
        done = shards.map_batches(
            partial(pack_shard, packing=packing),
            compute=TaskPoolStrategy(size=min(n_packers, len(todo))),
            num_cpus=1,
            batch_size=1,
            batch_format="numpy",
        )
        yield from rows_of(done)


def pack_shard(batch: Batch, *, packing: Packing) -> Batch:
    """A shard's number → how many images it holds, once it lies in the folder."""
    shard = int(batch["shard"][0])
    with carrying():
        packing.write(shard)
    return {"n": np.array([len(packing.rows(shard))])}


def _batches(rows: range) -> Iterator[tuple[int, int]]:
    """Cut a shard's rows where the table's row is a multiple of `BATCH_IMAGES`."""
    start = rows.start
    while start < rows.stop:
        stop = min(rows.stop, (start // BATCH_IMAGES + 1) * BATCH_IMAGES)
        yield start, stop
        start = stop


def _finish(packing: Packing, dataset: Dataset) -> None:
    """Table and manifest, and nothing of how they were made."""
    keys: list[str] = []
    hashes: list[bytes] = []
    written: list[dict[str, Any]] = []
    for shard in range(packing.n_shards):
        name, n_images = shard_name(shard), len(packing.rows(shard))
        keys += [f"{name}#{row}" for row in range(n_images)]
        joint = packing.hashes_file(shard).read_bytes()
        hashes += [joint[i : i + HASH_BYTES] for i in range(0, len(joint), HASH_BYTES)]
        written.append({"file": name, "images": n_images, "bytes": (packing.folder / name).stat().st_size})
    finish(packing.folder, dataset.table, keys, hashes, written, packing.size)
    for helper in (packing.folder / PLAN, packing.folder / ROWS, *packing.folder.glob("_*.sha256")):
        helper.unlink()
