"""What the entry points share: a command of the command line, on the Ray cluster that this machine belongs to."""

from __future__ import annotations

import os
import sys

from reid_ray.cli import main
from reid_ray.cli.jobs import JOBS


def run(job: str) -> None:
    """Run a job's command with this process's arguments. What uses Ray joins the cluster, unless told of another.

    Exit codes are those of `reid-ray`; started again with the same arguments, it goes on where it was.
    """
    os.environ.setdefault("RAY_ADDRESS", "auto")
    main([*JOBS[job], *sys.argv[1:]])
