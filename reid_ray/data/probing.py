"""Find the image that crashes its decoder by bisection: groups of images are decoded in separate processes.

Native code that crashes on a damaged file ends the process without naming the file. `find_fatal_image` starts one
process, which imports what decoding needs and forks for each group, because imports take longer than decoding. It is
only for groups of images that have crashed a process before.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module

from reid_ray.data.images import ImageReader


def find_fatal_image(images: ImageReader, paths: Sequence[str], seconds: float) -> tuple[str, str] | None:
    """The first image whose decoding alone ends a process or times out, and how, as in "signal SIGSEGV".

    None if there is none: processes also end for other reasons, such as lack of memory.

    Args:
        images: reader of the paths; must be picklable.
        paths: of the suspected images.
        seconds: time limit for decoding a group.
    """
    with started_prober() as prober:
        return first_fatal(prober, images, list(paths), seconds)


@contextmanager
def started_prober() -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs `main` for the block."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", "from reid_ray.data.probing import main; main()"]
    with (
        suppress(BrokenPipeError),  # of a last task that a process which has ended cannot read
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as prober,
    ):
        yield prober


def first_fatal(
    prober: subprocess.Popen[bytes], images: ImageReader, paths: list[str], seconds: float
) -> tuple[str, str] | None:
    """`find_fatal_image` by a process that has been started."""

    def fate(group: list[str]) -> str:
        return _ask(prober, (seconds, type(images).__module__, pickle.dumps((images, group))))

    found = fate(paths)
    while found and len(paths) > 1:
        half = len(paths) // 2
        found = fate(paths[:half])
        paths = paths[:half] if found else paths[half:]
        found = found or fate(paths)
    return (paths[0], found) if found else None


def _ask(prober: subprocess.Popen[bytes], task: tuple[float, str, bytes]) -> str:
    """How a process that decodes some images ends; empty if it succeeds, or if the prober itself has ended."""
    assert prober.stdin is not None
    assert prober.stdout is not None
    try:
        pickle.dump(task, prober.stdin)
        prober.stdin.flush()
    except BrokenPipeError:  # it could not start, or was killed
        return ""
    return prober.stdout.readline().decode().strip()


def main() -> None:
    """Answer each task on standard input with a line, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a decoder prints is no answer
    with suppress(EOFError):
        while True:
            seconds, module, task = pickle.load(sys.stdin.buffer)  # from `_ask`, never from a file
            with suppress(ImportError):  # here rather than in every fork
                import_module(module)
            print(_fate(task, seconds), file=answers, flush=True)


def _fate(task: bytes, seconds: float) -> str:
    child = multiprocessing.get_context("fork").Process(target=_decode, args=(task,))
    child.start()
    child.join(seconds)
    code = child.exitcode
    if code is None:
        child.kill()
        return f"no answer in {seconds:g} s"
    # The system kills processes when memory is short, which is not the fault of an image.
    if code in (0, -signal.SIGKILL):
        return ""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _decode(task: bytes) -> None:
    with suppress(Exception):  # a reader that cannot be unpickled here is not the fault of an image
        images, paths = pickle.loads(task)  # here, because threads and connections of a reader do not survive a fork
        for path in paths:
            with suppress(Exception):  # a broken image that raises does not crash the process
                images.read(path)
