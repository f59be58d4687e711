"""File lists of datasets in which each line is a file and a number: `0000/0000_000_01.jpg 0`, `Visible/…bmp 17`."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from reid_ray.errors import DataError
from reid_ray.io.paths import Location

_LINE = re.compile(r"(?P<file>\S.*?)\s+(?P<number>\d{1,9})")


def read_file_list(path: Location, *, dataset: str, number: str) -> list[tuple[str, int]]:
    """(file, number) of each line, in order; blank lines are skipped.

    Args:
        dataset: name of the dataset, for messages.
        number: the number's name in its documentation, for messages.

    Raises:
        DataError: the list cannot be read, or a line is not a file and a number, or leads out of the dataset's folder.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the list {path} of {dataset} ({error}); unpack the dataset again.") from error
    entries = []
    for i, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(f"{path}, line {i}: {line.strip()!r} is not 'file {number}', as in {dataset}'s lists.")
        inside = PurePosixPath(match["file"])
        if inside.is_absolute() or ".." in inside.parts:
            raise DataError(f"{path}, line {i}: {match['file']!r} leads out of the dataset's folder.")
        entries.append((match["file"], int(match["number"])))
    return entries
