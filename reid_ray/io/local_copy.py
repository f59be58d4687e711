"""Local copies of large objects: a file must be on a local disk to be mapped into memory.

They are in the folder REID_CACHE (default ~/.cache/reid_ray), named by object and version, and shared by all processes
of the machine. They may be deleted when nothing is running.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from reid_ray.errors import DataError
from reid_ray.io.paths import Location, RemotePath

CHUNK_BYTES = 16 * 2**20


def local_copy(path: Location) -> Path:
    """A local path with the content of `path`: the file itself, or a copy of an object.

    The first process that requests an object downloads it while others wait.

    Raises:
        DataError: the object does not exist, or there is no space for it.
    """
    if not isinstance(path, RemotePath):
        return path
    folder = Path(os.environ.get("REID_CACHE") or "~/.cache/reid_ray").expanduser()
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    version = hashlib.sha256(f"{path} {found}".encode()).hexdigest()[:16]
    copy = folder / f"{version}-{path.name}"
    if copy.exists():
        return copy
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with copy.with_suffix(".partial").open("ab") as partial:
            fcntl.flock(partial, fcntl.LOCK_EX)
            if not copy.exists():
                partial.truncate(0)  # remains of a killed process
                with path.open("rb") as source:
                    shutil.copyfileobj(source, partial, CHUNK_BYTES)
                partial.flush()
                Path(partial.name).rename(copy)
    except OSError as error:
        raise DataError(
            f"Cannot copy {path} to {folder} ({error.strerror or error}); free space there, or set REID_CACHE to a "
            f"folder on a larger disk."
        ) from error
    return copy
