"""Requirements of all protocols on a table."""

from __future__ import annotations

from collections import Counter

from reid_ray.data.table import ImageTable
from reid_ray.types import UNKNOWN


def missing_part(table: ImageTable) -> str | None:
    """None if a table has query and gallery images with identities, else a one-line message on what is missing."""
    query, gallery = table.split("query"), table.split("gallery")
    if len(query) == 0 and len(gallery) == 0:
        return f"{table.name} cannot be evaluated: it has no query and no gallery split."
    if len(query) == 0:
        return f"{table.name} cannot be evaluated: it has a gallery but no query split."
    if len(gallery) == 0:
        return f"{table.name} cannot be evaluated: it has a query but no gallery split."
    for side, name in ((query, "query"), (gallery, "gallery")):
        if not side.has_pids:
            return f"{table.name} cannot be evaluated: the identities of its {name} images are not known."
    return None


def has_valid_match(query: ImageTable, gallery: ImageTable) -> bool:
    """Whether some query has a gallery image of the same person from another camera."""
    per_pid = Counter(gallery.pids.tolist())
    per_pid_and_camera = Counter(zip(gallery.pids.tolist(), gallery.camids.tolist(), strict=True))
    for pid, camid in set(zip(query.pids.tolist(), query.camids.tolist(), strict=True)):
        n_removed = 0 if camid == UNKNOWN else per_pid_and_camera[pid, camid]
        if pid != UNKNOWN and per_pid[pid] > n_removed:
            return True
    return False
