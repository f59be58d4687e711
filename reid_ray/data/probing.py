"""Find the image that crashes its decoder by bisection: groups of images are decoded in separate processes.

Native code that crashes on a damaged file ends the process without naming the file. `find_fatal_image` starts several
processes, so it is only for groups of images that have crashed a process before.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from reid_ray.data.images import ImageReader

READY = b"ready\n"
"""Written by a child process when it has imported everything and read its task."""


def find_fatal_image(images: ImageReader, paths: Sequence[str], seconds: float) -> tuple[str, str] | None:
    """The first image whose decoding alone ends a process or times out, and how, as in "signal SIGSEGV".

    None if there is none: processes also end for other reasons, such as lack of memory.

    Args:
        images: reader of the paths; must be picklable.
        paths: of the suspected images.
        seconds: time limit for decoding a group.
    """
    fate = _fate(images, paths, seconds)
    while fate is not None and len(paths) > 1:
        half = len(paths) // 2
        fate = _fate(images, paths[:half], seconds)
        paths = paths[:half] if fate else paths[half:]
        if fate is None:
            fate = _fate(images, paths, seconds)
    return None if fate is None else (paths[0], fate)


def _fate(images: ImageReader, paths: Sequence[str], seconds: float) -> str | None:
    """How a process that decodes some images ends; None if it succeeds or could not start."""
    task = pickle.dumps((images, list(paths)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", "from reid_ray.data.probing import main; main()"]
    try:
        child = subprocess.run(
            command,
            input=task,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return f"no answer in {seconds:g} s" if READY in (error.stdout or b"") else None
    # The system kills processes when memory is short, which is not the fault of an image.
    if child.returncode in (0, -signal.SIGKILL) or READY not in child.stdout:
        return None
    if child.returncode < 0:
        return f"signal {signal.Signals(-child.returncode).name}"
    return f"exit code {child.returncode}"


def main() -> None:
    """Decode the images of the task on standard input."""
    images, paths = pickle.load(sys.stdin.buffer)  # from `_fate`, never from a file
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    for path in paths:
        with suppress(Exception):  # a broken image that raises does not crash the process
            images.read(path)
