"""What every protocol needs of a table."""

from __future__ import annotations

from reid_ray.data.table import ImageTable


def missing_part(table: ImageTable) -> str | None:
    """None where a table has query and gallery images with identities, else one sentence that says what is missing."""
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
