"""Convert names of cameras and persons to the numbers of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from reid_ray.types import UNKNOWN

_INTEGER = re.compile(r"-?[0-9]{1,18}")


def camera_numbers(names: Iterable[str]) -> dict[str, int]:
    """Number cameras from 0 without gaps: in numeric order where all names are integers, else by name.

    "-1" stays `UNKNOWN` among integers. "01" and "1" are the same camera where all names are integers.

    >>> camera_numbers(["10", "2", "2", "-1"])
    {'-1': -1, '10': 1, '2': 0}
    """
    distinct = sorted(set(names))
    values = _integers(distinct)
    if values is None:
        return {name: i for i, name in enumerate(distinct)}
    number = {value: i for i, value in enumerate(sorted(set(values.values()) - {UNKNOWN}))}
    return {name: number.get(value, UNKNOWN) for name, value in values.items()}


def person_numbers(names: Iterable[str]) -> dict[str, int]:
    """Number persons: integers are kept, so that reports show the pids on disk; names are numbered from 0."""
    distinct = sorted(set(names))
    values = _integers(distinct)
    return dict(values) if values is not None else {name: i for i, name in enumerate(distinct)}


def _integers(names: list[str]) -> Mapping[str, int] | None:
    """Name → value, or None if some name is not an integer."""
    return {name: int(name) for name in names} if all(map(_INTEGER.fullmatch, names)) else None
