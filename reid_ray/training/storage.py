"""Files that are there whole or not at all, and one sentence where the storage gives out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from reid_ray.errors import RunError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends well.

    A reader sees the old file or the whole new one; a failure leaves the old one, and nothing beside it.

    Raises:
        RunError: the storage is full, read-only or gone.
    """
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
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` in the block into a `RunError` that says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save answers a failed write with a RuntimeError about its position in the archive.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise RunError(
            f"Cannot write {path} ({cause.strerror or cause}); make room or mend the storage and start the same "
            f"command again, which goes on from the last checkpoint, or choose another output=FOLDER."
        ) from error


def first_line(error: Exception) -> str:
    """What an error of a library says, short enough to stand in a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
