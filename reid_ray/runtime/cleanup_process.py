"""Remove the temporary files of a killed driver: a separate program, `python cleanup_process.py RUN FOLDER…`.

It reads standard input, a pipe that the driver holds open. A byte means that the driver has cleaned up itself; the end
of the pipe means that the driver is gone. Then the folders and the partial writes in the run directory are removed
repeatedly, because Ray's processes end a moment after their driver.
"""

import os
import shutil
import sys
import time
from pathlib import Path

SHUTDOWN_SECONDS = 20.0
"""Time that the processes of the driver may take to end."""

ABANDONED_SECONDS = 4.0
"""A partial file that was not modified for this long is abandoned; newer ones may belong to a restarted run."""


def clean(run: Path, folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for abandoned in [*run.glob(".*.tmp"), *run.glob("*/.*.tmp")]:
        try:
            if time.time() - abandoned.stat().st_mtime > ABANDONED_SECONDS:
                abandoned.unlink()
        except OSError:
            continue


def main() -> None:
    run, folders = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    if os.read(0, 1):
        return
    until = time.monotonic() + SHUTDOWN_SECONDS
    while time.monotonic() < until:
        clean(run, folders)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
