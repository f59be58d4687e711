"""Memory of this machine, in a module that is cheap to import: each node of a cluster imports it to answer."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_limit() -> int:
    """Bytes of memory of this machine or container.

    Includes memory that other processes use at the moment: it may be free later, and a run that could fit must not be
    rejected.
    """
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [int(text) for name in CGROUP_LIMITS if (text := _read(name)).isdecimal()]
    return min([installed, *limits])


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="ascii").strip()
    except OSError:
        return ""
