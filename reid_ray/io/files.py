"""Files that are there whole or not at all, and one sentence where the storage gives out."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from reid_ray.errors import RunError, StorageError
from reid_ray.io.paths import Location, RemotePath

SECONDS_BETWEEN_PUTS = 5.0
"""Of a growing file on an object store, which can only be put anew as a whole."""


@contextmanager
def atomic_write(path: Location) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends well.

    A reader sees the old file or the whole new one; a failure leaves the old one, and nothing beside it.

    Raises:
        RunError: the storage is full, read-only or gone.
    """
    if isinstance(path, RemotePath):
        content = io.BytesIO()
        yield content
        with storage_errors(path):
            path.write_bytes(content.getbuffer())
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: Location, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one; `RunError` where the storage gives out."""
    with atomic_write(path) as file:
        file.write(data)


class GrowingFile(Protocol):
    """A file that one process adds to, and others follow."""

    @property
    def size(self) -> int:
        """Bytes added so far; 0 where there is no file yet."""
        ...

    def append(self, data: bytes) -> None:
        """Add to the end all of the data or, with a `RunError`, nothing."""
        ...

    def truncate(self, size: int) -> None:
        """Cut back to `size` bytes, where it has more."""
        ...

    def flush(self) -> None:
        """Make what was added visible to others."""
        ...


def open_append(path: Location) -> GrowingFile:
    """The file at `path`, to be added to by nobody else."""
    return _GrowingObject(path) if isinstance(path, RemotePath) else _GrowingLocalFile(path)


class _GrowingLocalFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def append(self, data: bytes) -> None:
        append(self._path, data)

    def truncate(self, size: int) -> None:
        if self._path.exists():
            with storage_errors(self._path):
                os.truncate(self._path, min(size, self.size))

    def flush(self) -> None:
        """Nothing: what was added is there."""


class _GrowingObject:
    """Held in memory, and put as a whole now and then."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        self._content: bytearray | None = None
        self._is_put = True
        self._last_put = 0.0

    @property
    def size(self) -> int:
        return len(self._loaded())

    def append(self, data: bytes) -> None:
        self._loaded().extend(data)
        self._is_put = False
        if time.monotonic() - self._last_put > SECONDS_BETWEEN_PUTS:
            self.flush()

    def truncate(self, size: int) -> None:
        if size < self.size:
            del self._loaded()[size:]
            self._is_put = False
            self.flush()

    def flush(self) -> None:
        if self._is_put:
            return
        with storage_errors(self._path):
            self._path.write_bytes(bytes(self._loaded()))
        self._is_put, self._last_put = True, time.monotonic()

    def _loaded(self) -> bytearray:
        """The content; at first what a process before this one has put."""
        if self._content is None:
            try:
                self._content = bytearray(self._path.read_bytes())
            except FileNotFoundError:
                self._content = bytearray()
        return self._content


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file, all of the data or, with a `RunError`, nothing."""
    with storage_errors(path):
        before = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(data)
        except OSError:
            with suppress(OSError):
                os.truncate(path, before)
            raise


@contextmanager
def storage_errors(path: Location) -> Iterator[None]:
    """Turn a failure to write `path` in the block into a `RunError` that says what to do."""
    advice = "start the same command again, which goes on from the last checkpoint, or choose another output=FOLDER."
    try:
        yield
    except StorageError as error:
        raise RunError(f"{str(error).rstrip('.')}; then {advice}") from error
    except (OSError, RuntimeError) as error:
        # torch.save answers a failed write with a RuntimeError about its position in the archive.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise RunError(
            f"Cannot write {path} ({cause.strerror or cause}); make room or mend the storage and {advice}"
        ) from error


def first_line(error: Exception) -> str:
    """What an error of a library says, short enough to stand in a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content
