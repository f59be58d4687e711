"""Which image ends the process that decodes it: images are decoded in processes of their own, in ever smaller groups.

Native code that crashes on a damaged file takes its process with it and names no file. `find_fatal_image` costs a few
new processes, so it is for groups of images that have ended a process before.
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
"""What a child writes once it has imported everything and read its task."""


def find_fatal_image(images: ImageReader, paths: Sequence[str], seconds: float) -> tuple[str, str] | None:
    """The first image whose decoding alone ends a process or does not finish, and how, as in "signal SIGSEGV".

    None where there is none: processes end for other reasons too, such as memory that runs out.

    Args:
        images: reads what paths name; must be picklable.
        paths: of the images in question.
        seconds: in which a group must be decoded.
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
    """How a process that decodes some images ends; None where it ends well, or could not begin."""
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
    # The system kills processes for want of memory, which is no fault of an image.
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
        with suppress(Exception):  # refused in words, which is another's to say
            images.read(path)
