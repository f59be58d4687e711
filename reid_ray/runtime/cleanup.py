"""Nothing is left behind: folders that go with the driver, however it ends."""

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
    """Remove `folders` after the block, and what was being written in the run directory, even when killed in it.

    A process of its own waits for the end of this one, for nothing here can run after SIGKILL. In object stores it
    finds nothing: no object is ever half-written, and what is left of `folders` there is for the next start of the run.
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
        if ended:  # else workers may still be dying, on this machine or others
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
    """A new folder for the files of a Ray that lives as long as the driver. Its path is short: sockets lie in it."""
    return Path(tempfile.mkdtemp(prefix="reid-", dir=os.environ.get("RAY_TMPDIR", "/tmp")))
