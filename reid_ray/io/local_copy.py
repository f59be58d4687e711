"""Copies, on this machine, of large files in object stores: to be mapped into memory a file must lie on a disk.

They lie in the folder that REID_CACHE names, by default ~/.cache/reid_ray, under names that tell the object and its
version; they are shared by the processes of a machine, and may be removed whenever nothing runs.
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
    """The file itself; of an object its copy on this machine, which the first to ask makes while others wait.

    Raises:
        DataError: there is no such object, or no room for it.
    """
    if not isinstance(path, RemotePath):
        return path
    folder = Path(os.environ.get("REID_CACHE") or "~/.cache/reid_ray").expanduser()
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise DataError(f"There is no {path}.") from error
    version = hashlib.sha256(f"{path} {found}".encode()).hexdigest()[:16]
    copy = folder / f"{version}-{path.name}"
    if copy.exists():
        return copy
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with copy.with_suffix(".partial").open("ab") as partial:
            fcntl.flock(partial, fcntl.LOCK_EX)
            if not copy.exists():
                partial.truncate(0)  # what a killed process has left
                with path.open("rb") as source:
                    shutil.copyfileobj(source, partial, CHUNK_BYTES)
                partial.flush()
                Path(partial.name).rename(copy)
    except OSError as error:
        raise DataError(
            f"Cannot copy {path} to {folder} ({error.strerror or error}); make room there, or set REID_CACHE to a "
            f"folder on a larger disk."
        ) from error
    return copy
