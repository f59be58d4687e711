"""The column `tracklet` for layouts whose file names or folders identify tracklets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from reid_ray.data.table import OPTIONAL_COLUMNS, ImageTable
from reid_ray.types import UNKNOWN


def with_tracklets(table: ImageTable, names: Sequence[str | None], frames: Sequence[Any]) -> ImageTable:
    """The table with the column `tracklet`, and the rows of a tracklet one after the other in the order of frames.

    Tracklets are numbered from 0 in the order in which they begin in the table; the first row of each keeps its place
    among the rows in no tracklet.

    Args:
        table: without that column, split after split.
        names: [N], the name of each row's tracklet within its split; None where it is in none.
        frames: [N], values to order the frames of a tracklet by; equal ones stay as they are.
    """
    numbers: dict[tuple[str, str], int] = {}
    begins: list[int] = []
    tracklets = []
    for row, (split, name) in enumerate(zip(table.arrow["split"].to_pylist(), names, strict=True)):
        if name is None:
            tracklets.append(UNKNOWN)
            continue
        number = numbers.setdefault((split, name), len(numbers))
        if number == len(begins):
            begins.append(row)
        tracklets.append(number)

    def place(row: int) -> tuple[Any, ...]:
        number = tracklets[row]
        return (row,) if number == UNKNOWN else (begins[number], frames[row], row)

    column = pa.array(tracklets, OPTIONAL_COLUMNS["tracklet"])
    ordered = np.array(sorted(range(len(table)), key=place), dtype=np.int64)
    return ImageTable(table.arrow.append_column("tracklet", column), table.name).take(ordered)


def natural_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """A sort key in which numbers compare by value: frame2.jpg comes before frame10.jpg.

    >>> sorted(["f10", "f2", "f02b"], key=natural_key)
    ['f02b', 'f2', 'f10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((False, int(part), part) if part[0] in "0123456789" else (True, 0, part) for part in parts)
