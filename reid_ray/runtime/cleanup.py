"""Temporary folders that are removed when the driver ends, even by SIGKILL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reid_ray.errors import StorageError
from reid_ray.io.paths import Location, RemotePath
from reid_ray.runtime import cleanup_process


@contextmanager
def short_lived(run: Location, *folders: Location) -> Iterator[None]:
    """Remove `folders` after the block, and partial writes in the run directory, even if this process is killed.

    After SIGKILL no code of this process runs, so a separate process waits for its end. It does nothing for object
    stores: objects are never written partially, and the next start of the run removes `folders` there.
    """
    ours, theirs = os.pipe()  # read end, write end
    command = [sys.executable, "-I", "-S", cleanup_process.__file__, str(run), *map(str, folders)]
    watcher = subprocess.Popen(
        command, stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    os.close(ours)
    ended = False
    try:
        yield
        ended = True
    finally:
        for folder in folders:
            _remove(folder)
        if ended:  # else workers may still be shutting down, here or on other nodes
            with suppress(OSError):
                os.write(theirs, b"!")
        os.close(theirs)
        if ended:
            watcher.wait()


def _remove(folder: Location) -> None:
    if isinstance(folder, RemotePath):
        with suppress(StorageError):
            folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def ray_folder() -> Path:
    """A new folder for the files of a local Ray cluster. Its path is short because it holds Unix sockets."""
    return Path(tempfile.mkdtemp(prefix="reid-", dir=os.environ.get("RAY_TMPDIR", "/tmp")))
