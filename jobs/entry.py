"""Shared by the entry points: run a `reid-ray` command on the Ray cluster that this machine belongs to."""

from __future__ import annotations

import os
import sys

from reid_ray.cli import main
from reid_ray.cli.jobs import JOBS


def run(job: str) -> None:
    """Run the command of a job with this process's arguments. Ray joins the local cluster unless RAY_ADDRESS is set.

    Exit codes are those of `reid-ray`. Rerun with the same arguments to resume.
    """
    os.environ.setdefault("RAY_ADDRESS", "auto")
    main([*JOBS[job], *sys.argv[1:]])
