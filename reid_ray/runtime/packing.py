"""`data.pack` on many nodes: images stream through Ray Data into shards; an interrupted call can be resumed.

    sizes of all images (tasks) ─► rows of each shard ─► read, check, write a shard (tasks) ─► table and manifest

The folder equals that of `data.pack.pack` byte for byte. Shards end where they are full, so sizes are measured first.
Until it is complete, the folder is next to `out`, with the finished shards and the hashes of their images.
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
from reid_ray.runtime.actor_executor import fetch
from reid_ray.runtime.cluster import joined
from reid_ray.runtime.dataflow import Batch, carry_user_errors, quiet_context, rows_of, silence_ray_data
from reid_ray.runtime.shared import check_shared

PLAN = "_plan.json"
ROWS = "_rows.parquet"

ROW_GROUP = 8192
"""Rows of the table per row group, and per task that measures sizes."""

HASH_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Packing:
    """An unfinished packed dataset. Small, because it is sent to the tasks that write shards.

    Attributes:
        folder: temporary location until it is complete; every node must see it.
        images: reader of the paths in the table.
        size: height and width to resize images to; None keeps the files unchanged.
        starts: first row of each shard, followed by the number of rows.
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
        """SHA-256 of a shard's images, concatenated; written after the shard, it marks the shard as complete."""
        return self.folder / f"_{shard_name(shard)}.sha256"

    def missing(self) -> list[int]:
        """Numbers of the shards that are not written yet."""
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
    """Write `dataset` as a packed dataset and return its folder; resume an interrupted call.

    Args:
        out: the folder to create; must not exist or be empty. Like the images, on storage that every node sees.
        shard_mb, size: as in `data.pack.pack`. With `size` each image is encoded twice, once to measure it.
        n_packers: concurrent tasks, one CPU each.
        address: Ray cluster to join; None joins that of `RAY_ADDRESS` or starts a local one.
        progress: called with the number of finished images and the total.

    Raises:
        DataError: `out` is in use, the dataset is empty, an image is unreadable or truncated, or an interrupted call
            for other images or settings left its folder next to `out`.
        RunError: the cluster is not reachable, or the storage fails.
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
    with silence_ray_data(), joined(address, num_cpus=n_packers, partial_writes=folder):
        check_shared(folder)
        if known is None:
            sizes = _measure(folder, dataset, size)
            known = tuple(cut(sizes, shard_mb * 2**20))
            atomic_write_bytes(folder / PLAN, json.dumps({**request, "starts": known}).encode())
        packing = Packing(folder, dataset.images, size, known)
        n_done = len(dataset.table)
        pending = packing.missing()
        n_done -= sum(len(packing.rows(shard)) for shard in pending)
        for row in _flow(packing, pending, n_packers):
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
    """First image of each shard, if a shard ends once it holds `limit` bytes; followed by the number of images."""
    yield 0
    held = 0
    for i, size in enumerate(sizes):
        held += size
        if held >= limit and i + 1 < len(sizes):
            yield i + 1
            held = 0
    yield len(sizes)


def read_paths(folder: Location, rows: range) -> list[str]:
    """The paths of some rows, read from their row groups."""
    first, last = rows.start // ROW_GROUP, (rows.stop - 1) // ROW_GROUP
    try:
        table = pq.ParquetFile(as_readable(folder / ROWS)).read_row_groups(range(first, last + 1), columns=["path"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"Cannot read {folder / ROWS} ({error}); the folder must be on storage that every node sees."
        ) from error
    paths: list[str] = table["path"].slice(rows.start - first * ROW_GROUP, len(rows)).to_pylist()
    return paths


def measure(folder: Location, rows: range, images: ImageReader, size: tuple[int, int] | None) -> npt.NDArray[np.int64]:
    """Bytes that images take in a shard; for unchanged files, their size in the file system."""
    paths = read_paths(folder, rows)
    if size is not None or not isinstance(images, FileImages):
        return np.array([len(stored(images, path, size)) for path in paths], dtype=np.int64)
    try:
        return np.array([as_path(path).stat().st_size for path in paths], dtype=np.int64)
    except OSError as error:
        raise DataError(f"Cannot read the image {error.filename}: {error.strerror}.") from error


def _begin(folder: Location, dataset: Dataset, request: dict[str, Any]) -> tuple[int, ...] | None:
    """Create the folder with the table in it, or return the shards of an interrupted call with the same settings."""
    plan = folder / PLAN
    if plan.exists():
        before = json.loads(plan.read_text(encoding="utf-8"))
        starts = before.pop("starts")
        if before != request:
            raise DataError(
                f"{folder} belongs to an interrupted 'data pack' of other images or settings; remove it, or choose "
                f"another output folder."
            )
        return tuple(starts)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / ROWS) as file:
        pq.write_table(dataset.table.arrow, file, row_group_size=ROW_GROUP)
    return None


def _measure(folder: Location, dataset: Dataset, size: tuple[int, int] | None) -> list[int]:
    """Bytes of all images, measured by tasks."""
    task, n_rows = ray.remote(measure), len(dataset.table)
    ranges = (range(start, min(start + ROW_GROUP, n_rows)) for start in range(0, n_rows, ROW_GROUP))
    parts = fetch([task.remote(folder, rows, dataset.images, size) for rows in ranges])
    sizes: list[int] = np.concatenate(parts).tolist()
    return sizes


def _flow(packing: Packing, pending: list[int], n_packers: int) -> Iterator[dict[str, Any]]:
    """One row per shard, in the order in which they finish."""
    if not pending:
        return
    with DataContext.current(quiet_context()):
        shards = ray.data.from_items([{"shard": shard} for shard in pending], override_num_blocks=len(pending))
        done = shards.map_batches(
            partial(pack_shard, packing=packing),
            compute=TaskPoolStrategy(size=min(n_packers, len(pending))),
            num_cpus=1,
            batch_size=1,
            batch_format="numpy",
        )
        yield from rows_of(done)


def pack_shard(batch: Batch, *, packing: Packing) -> Batch:
    """Write a shard; return the number of its images."""
    shard = int(batch["shard"][0])
    with carry_user_errors():
        packing.write(shard)
    return {"n": np.array([len(packing.rows(shard))])}


def _batches(rows: range) -> Iterator[tuple[int, int]]:
    """Split the rows of a shard at table rows that are multiples of `BATCH_IMAGES`."""
    start = rows.start
    while start < rows.stop:
        stop = min(rows.stop, (start // BATCH_IMAGES + 1) * BATCH_IMAGES)
        yield start, stop
        start = stop


def _finish(packing: Packing, dataset: Dataset) -> None:
    """Write table and manifest, and remove the temporary files."""
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
