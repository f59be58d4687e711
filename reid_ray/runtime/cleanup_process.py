"""Removes what a driver leaves when it is killed: a program of its own, `python janitor.py RUN FOLDER…`.

It reads its standard input, a pipe that the driver holds open. A byte says that the driver has tidied up itself; the
end of the pipe, that it is gone, whatever took it. Then the folders are removed until they stay away, for Ray's
processes die a moment after their driver, and with them what a killed worker was writing in the run directory.
"""

import os
import shutil
import sys
import time
from pathlib import Path

PATIENCE = 20.0
"""Seconds that the driver's processes may take to die."""

QUIET = 4.0
"""A half-written file that has not grown for this many seconds is abandoned; a new run may be writing beside it."""


def tidy(run: Path, folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for abandoned in [*run.glob(".*.tmp"), *run.glob("*/.*.tmp")]:
        try:
            if time.time() - abandoned.stat().st_mtime > QUIET:
                abandoned.unlink()
        except OSError:
            continue


def main() -> None:
    run, folders = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    if os.read(0, 1):
        return
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        tidy(run, folders)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
