"""Features of a table in a folder of Parquet shards, written in any order by any process, and resumable.

    features/
      rows-000000000-000000640.parquet   path, pid, camid, split …, row and feature of these rows of the table
      _rows.parquet                      the table; a process that computes a shard reads its rows here
      _lease.json                        the process that is filling the folder
      _manifest.json                     model, table and settings of the features, so that no folder mixes two kinds

The shards are one Parquet dataset: `pyarrow.parquet.read_table("features/")` reads them all and ignores names that
begin with `_`. A shard is written under a temporary name and renamed: it is complete or absent.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reid_ray.config import Config
from reid_ray.data.table import SCHEMA, ImageTable
from reid_ray.errors import DataError, RunError
from reid_ray.io.files import atomic_write, atomic_write_bytes, first_line, sha256_of, storage_errors
from reid_ray.io.paths import Location, RemotePath, as_path, as_readable
from reid_ray.types import FloatArray

MANIFEST = "_manifest.json"
ROWS = "_rows.parquet"
LEASE = "_lease.json"
FORMAT = "reid-ray-features 1"

SHARD_MB = 64
"""Upper limit for the decoded and resized images of one shard, which one task holds in memory."""

MIN_SHARDS = 32
"""Minimum number of shards, given enough batches, so that several extractors share a small table evenly."""

_DIGEST_ROWS = 1 << 16


@dataclass(frozen=True)
class Manifest:
    """Model, table and settings of the features in a folder, and its shards. Only equal manifests may share a folder.

    Attributes:
        model: SHA-256 of the model's file.
        table: digest of path, pid, camid and split of all rows.
        n_rows: rows of the table.
        size: height and width that images are resized to, pixels.
        precision: arithmetic of the network.
        batch_size: images of a forward pass.
        shard_rows: rows of a shard, a multiple of `batch_size`; the last shard may have fewer.
    """

    model: str
    table: str
    n_rows: int
    size: tuple[int, int]
    precision: str
    batch_size: int
    shard_rows: int

    @classmethod
    def of(cls, config: Config, model_file: Location, table: ImageTable) -> Manifest:
        """The manifest of a table's features by a run's model; `RunError` where there is no such file."""
        size, batch_size = (config.data.height, config.data.width), config.evaluation.batch_size
        try:
            model = sha256_of(model_file)
        except OSError as error:
            raise RunError(f"Cannot read the model {model_file}: {error.strerror or error}.") from error
        shard_rows = batch_size * batches_per_shard(len(table), size, batch_size)
        return cls(model, table_digest(table), len(table), size, config.training.precision, batch_size, shard_rows)

    @property
    def image_bytes(self) -> int:
        """Size of one decoded and resized image."""
        return 3 * self.size[0] * self.size[1]

    @property
    def shards(self) -> list[range]:
        """Row range of each shard, in order."""
        starts = range(0, self.n_rows, self.shard_rows)
        return [range(start, min(start + self.shard_rows, self.n_rows)) for start in starts]

    def difference(self, other: Manifest) -> str | None:
        """Describe the first difference from `other`, as in "of another model"; None if the two are equal."""
        for name, words in (
            ("model", "of another model"),
            ("table", "of other images"),
            ("n_rows", "of other images"),
            ("size", f"of images at {self.size[0]}×{self.size[1]}"),
            ("precision", f"computed in {self.precision}"),
            ("batch_size", f"computed in batches of {self.batch_size}"),
            ("shard_rows", f"in shards of {self.shard_rows} rows"),
        ):
            if getattr(self, name) != getattr(other, name):
                return words
        return None


def batches_per_shard(n_rows: int, size: tuple[int, int], batch_size: int) -> int:
    """As many batches as `SHARD_MB` of images allow; fewer if the table would otherwise have under `MIN_SHARDS`
    shards."""
    n_batches = -(-n_rows // batch_size)
    room = SHARD_MB * 2**20 // (3 * size[0] * size[1] * batch_size)
    return max(1, min(room, n_batches // MIN_SHARDS))


def table_digest(table: ImageTable) -> str:
    """A short hash of the columns that every table has, independent of Arrow's chunks."""
    sha = hashlib.sha256()
    for start in range(0, len(table), _DIGEST_ROWS):
        part = table.arrow.slice(start, _DIGEST_ROWS)
        for field in SCHEMA:
            column = part[field.name]
            if pa.types.is_string(field.type):
                sha.update("\n".join(column.to_pylist()).encode())
            else:
                sha.update(np.ascontiguousarray(column.to_numpy()).tobytes())
    return sha.hexdigest()[:16]


@dataclass(frozen=True)
class FeatureFolder:
    """A folder that is being filled. The object is small, since it is sent to the processes that compute the shards.

    Attributes:
        path: on storage that all of these processes can access.
        manifest: as stored in the folder.
    """

    path: Location
    manifest: Manifest

    @classmethod
    def begin(cls, path: Location, manifest: Manifest, table: ImageTable) -> FeatureFolder:
        """Create the folder, or resume an existing one.

        Raises:
            DataError: the folder is locked by another process, or holds other features or other files.
            RunError: it cannot be written.
        """
        if (path / MANIFEST).exists():
            difference = read_manifest(path).difference(manifest)
            if difference:
                raise DataError(f"{path} holds features {difference}; choose another --out, or remove the folder.")
            for abandoned in path.glob(".*.tmp"):  # partial files of a killed process
                abandoned.unlink(missing_ok=True)
            return cls(path, manifest)
        if path.exists() and (not path.is_dir() or not all(map(_is_begun, path.iterdir()))):
            raise DataError(f"{path} exists and is not a folder of features; choose another --out, or remove it.")
        with storage_errors(path):
            path.mkdir(exist_ok=True)
        with atomic_write(path / ROWS) as file:
            pq.write_table(table.arrow, file, row_group_size=manifest.shard_rows)
        content = {"format": FORMAT, **asdict(manifest)}
        atomic_write_bytes(path / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())
        return cls(path, manifest)

    def shard_file(self, rows: range) -> Location:
        """File for the features of these rows, whether or not it exists."""
        return self.path / f"rows-{rows.start:09d}-{rows.stop:09d}.parquet"

    def missing(self) -> list[int]:
        """Numbers of the shards that are still missing."""
        there = {file.name for file in self.path.glob("rows-*.parquet")}
        return [i for i, rows in enumerate(self.manifest.shards) if self.shard_file(rows).name not in there]

    def rows(self, shard: int) -> pa.Table:
        """A shard's rows of the table: one row group of the file, so that no process reads all of it."""
        file = self.path / ROWS
        try:
            return pq.ParquetFile(file.open("rb")).read_row_group(shard)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"Cannot read {file} ({first_line(error)}); the folder must be on storage that every node sees at "
                f"the same place."
            ) from error

    def write(self, shard: int, features: FloatArray) -> None:
        """Write a shard atomically. `features`: float32 [n, D], in row order."""
        rows = self.manifest.shards[shard]
        kind = pa.list_(pa.field("element", pa.float32(), nullable=False), features.shape[1])
        values = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), type=kind)
        table = self.rows(shard).append_column("row", pa.array(np.arange(rows.start, rows.stop)))
        table = table.append_column(pa.field("feature", kind, nullable=False), values)
        with atomic_write(self.shard_file(rows)) as file:  # features do not compress
            pq.write_table(table, file, compression="none", use_dictionary=False)


class FolderFeatures:
    """Features of a finished folder, float32 [N, D], read by rows; a `types.FeatureRows`.

    Designed for sequential passes: one shard is in memory at a time.
    """

    def __init__(self, path: str | Location) -> None:
        self.path = as_path(path)
        manifest = read_manifest(self.path)
        folder = FeatureFolder(self.path, manifest)
        missing = folder.missing()
        if missing:
            raise DataError(
                f"{path} lacks {len(missing)} of {len(manifest.shards)} shards; the 'reid-ray extract' command that "
                f"began it resumes it."
            )
        self._shards = manifest.shards
        self._files = [folder.shard_file(rows) for rows in self._shards]
        with _whole(self._files[0]):
            self._dim = int(pq.read_schema(as_readable(self._files[0])).field("feature").type.list_size)
        self._last: tuple[int, FloatArray] | None = None

    def __len__(self) -> int:
        return self._shards[-1].stop

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._dim

    def __getitem__(self, rows: slice, /) -> FloatArray:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("features in a folder are read by contiguous rows")
        if start >= stop:
            return np.empty((0, self._dim), dtype=np.float32)
        size = len(self._shards[0])
        parts = [
            self._shard(number)[max(0, start - number * size) : stop - number * size]
            for number in range(start // size, (stop - 1) // size + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def flat(self) -> FloatArray:
        """All features as one memory-mapped array, for repeated reads in any order.

        It is backed by an unnamed file, as large as all shards together, which is deleted with the array. The file is
        next to the shards; if these are on an object store, it is in this machine's temporary folder.

        Raises:
            DataError: there is no room for the file, or the folder is read-only.
        """
        try:
            folder = None if isinstance(self.path, RemotePath) else self.path
            with tempfile.TemporaryFile(dir=folder, prefix=".", suffix=".tmp") as file:
                for number in range(len(self._shards)):
                    self._shard(number).tofile(file)
                file.flush()
                return np.memmap(file, dtype=np.float32, mode="r", shape=self.shape)
        except OSError as error:
            megabytes = 4 * len(self) * self._dim / 2**20
            raise DataError(
                f"Cannot lay out {megabytes:,.0f} MB of features in {self.path} ({error.strerror or error}); free "
                f"disk space, or copy the folder to a larger disk."
            ) from error

    def _shard(self, number: int) -> FloatArray:
        if self._last is None or self._last[0] != number:
            with _whole(self._files[number]):
                column = (
                    pq.ParquetFile(as_readable(self._files[number]))
                    .read(columns=["feature"])["feature"]
                    .combine_chunks()
                )
            # Not column.to_numpy(), for which pyarrow imports pandas.
            values = cast(FloatArray, np.from_dlpack(column.flatten()))
            self._last = number, values.reshape(-1, self._dim)
        return self._last[1]


@contextmanager
def _whole(shard: Location) -> Iterator[None]:
    """Turn a failure to read a shard in the block into a `DataError` that states the fix."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"Cannot read {shard} ({first_line(error)}); remove it, and the 'reid-ray extract' command that made the "
            f"folder makes it again."
        ) from error


def read_features(folder: str | Location) -> FolderFeatures:
    """Open the features that `reid-ray extract --out FOLDER` wrote, without reading them.

    Example:
        >>> features = read_features("features/")       # doctest: +SKIP
        >>> features.shape, features[:64].shape         # doctest: +SKIP
        ((1000000, 2048), (64, 2048))

    Raises:
        DataError: there is no such folder, or it is not finished.
    """
    return FolderFeatures(folder)


def read_manifest(path: Location) -> Manifest:
    """The manifest of a folder; `DataError` if there is none."""
    file = path / MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        return Manifest(**{**content, "size": tuple(content["size"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is not a folder of features ({file.name}: {first_line(error)}); 'reid-ray extract RUN --out "
            f"FOLDER' writes one."
        ) from error


def _is_begun(file: Location) -> bool:
    """Whether a file may remain from a process that was killed before it wrote the manifest."""
    return file.name in (ROWS, LEASE) or file.suffix == ".tmp"
