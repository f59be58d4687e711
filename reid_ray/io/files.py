"""Atomic writes and append-only files, with one-line errors if the storage fails."""

from __future__ import annotations

import hashlib
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

UPLOAD_SECONDS = 5.0
"""Minimum time between uploads of a growing file to an object store, which stores whole objects only."""


@contextmanager
def atomic_write(path: Location) -> Iterator[BinaryIO]:
    """A temporary file that replaces `path` when the block succeeds.

    Readers see the old file or the complete new one. On failure the old file stays, and the temporary one is removed.

    Raises:
        RunError: the storage is full, read-only or unreachable.
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
    """Replace a file atomically; `RunError` if the storage fails."""
    with atomic_write(path) as file:
        file.write(data)


class GrowingFile(Protocol):
    """A file that one process appends to, and others follow."""

    @property
    def size(self) -> int:
        """Size in bytes; 0 if the file does not exist yet."""
        ...

    def append(self, data: bytes) -> None:
        """Append all of the data or, with a `RunError`, nothing."""
        ...

    def truncate(self, size: int) -> None:
        """Truncate to `size` bytes if it is larger."""
        ...

    def flush(self) -> None:
        """Make appended data visible to other processes."""
        ...


def open_append(path: Location) -> GrowingFile:
    """Open the file at `path` for appending; no other process may append to it."""
    return _AppendObject(path) if isinstance(path, RemotePath) else _AppendLocalFile(path)


class _AppendLocalFile:
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
        """Nothing to do: local appends are visible at once."""


class _AppendObject:
    """Kept in memory and uploaded as a whole from time to time."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        self._content: bytearray | None = None
        self._is_uploaded = True
        self._last_upload = 0.0

    @property
    def size(self) -> int:
        return len(self._loaded())

    def append(self, data: bytes) -> None:
        self._loaded().extend(data)
        self._is_uploaded = False
        if time.monotonic() - self._last_upload > UPLOAD_SECONDS:
            self.flush()

    def truncate(self, size: int) -> None:
        if size < self.size:
            del self._loaded()[size:]
            self._is_uploaded = False
            self.flush()

    def flush(self) -> None:
        if self._is_uploaded:
            return
        with storage_errors(self._path):
            self._path.write_bytes(bytes(self._loaded()))
        self._is_uploaded, self._last_upload = True, time.monotonic()

    def _loaded(self) -> bytearray:
        """The content, initially that of the existing object."""
        if self._content is None:
            try:
                self._content = bytearray(self._path.read_bytes())
            except FileNotFoundError:
                self._content = bytearray()
        return self._content


def append(path: Path, data: bytes) -> None:
    """Append all of the data to a file or, with a `RunError`, nothing."""
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
    """Turn a failure to write `path` in the block into a `RunError` with advice."""
    advice = "rerun the same command to resume from the last checkpoint, or choose another output=FOLDER."
    try:
        yield
    except StorageError as error:
        raise RunError(f"{str(error).rstrip('.')}; then {advice}") from error
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError about its position in the archive for a failed write.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise RunError(
            f"Cannot write {path} ({cause.strerror or cause}); free space or fix the storage, then {advice}"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an exception's message, to quote in a one-line error."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def sha256_of(file: Location) -> str:
    """The hash of a file's content, in hexadecimal; `OSError` if it cannot be read."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()  # type: ignore[arg-type]


def parquet_bytes(table: pa.Table) -> bytes:
    """Serialise a table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content
