"""What the CSV and Parquet readers share: columns in, rows out, every fault named by row and column."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reid_ray.data.readers.numbering import camera_numbers, person_numbers
from reid_ray.data.readers.scan import Rows, Scan, missing_files
from reid_ray.data.table import SPLITS
from reid_ray.errors import DataError
from reid_ray.locations import Location, beside, location
from reid_ray.types import UNKNOWN

COLUMNS = ("path", "pid", "camid", "split")
LOOKALIKES = {
    "path": ("filepath", "filename", "file", "image", "imagepath"),
    "pid": ("person", "personid", "identity", "pids"),
    "camid": ("camera", "cameraid", "cam", "camids"),
    "split": ("subset", "set", "splits"),
}
"""What people also call the columns. Ignoring them would lose, say, the cameras without a word."""

_NUMBER = re.compile(r"(-?[0-9]+)(\.0*)?")  # tables that once had gaps write 3 as 3.0


@dataclass(frozen=True)
class Listing:
    """Columns as they stand in a file.

    Attributes:
        file: the CSV or Parquet file; paths in it are relative to its folder, absolute, or URIs in an object store.
        columns: name → values, one a row.
        where: from a row's index to the words that find it ("line 7").
    """

    file: Location
    columns: Mapping[str, Sequence[Any]]
    where: Callable[[int], str]

    def fault(self, row: int, column: str, what: str) -> DataError:
        return DataError(f"{self.file}, {self.where(row)}, column '{column}': {what}.")


def scan_listing(listing: Listing) -> Scan:
    """Rows of a listing with the columns path and, where there are any, pid, camid and split.

    Empty cells and −1 are an unknown identity or camera. Cameras are numbered from 0 without gaps; integer
    pids are kept, other pids are numbered by name. Columns of other names are ignored, save those that look
    like ours.

    Raises:
        DataError: no column `path`, a column that looks like one of ours under another name, an empty path,
        an unknown
            split, a negative number other than −1, the same image twice in one split, query without gallery.
    """
    _check_columns(listing)
    paths = _paths(listing)
    splits = _splits(listing, len(paths))
    _refuse_duplicates(listing, paths, splits)
    pids = _numbers(listing, "pid", person_numbers, len(paths))
    camids = _numbers(listing, "camid", camera_numbers, len(paths))
    missing = missing_files(paths)
    rows = Rows()
    for i, path in enumerate(paths):
        if path in missing:
            rows.refuse(
                "missing",
                path,
                f"is in {listing.file}, {listing.where(i)}, but not on disk; correct the path",
            )
        else:
            rows.add(path, splits[i], pids[i], camids[i])
    tested = {"query", "gallery"} & set(splits)
    return Scan(
        rows.table(listing.file.stem),
        problems=tuple(rows.problems),
        needs=tuple((split, str(listing.file)) for split in ("train", *(("query", "gallery") if tested else ()))),
    )


def listing_file(root: str | None, what: str) -> Location:
    """The listing itself, or `DataError` naming it."""
    file = location(root or "")
    if not root or not file.is_file():
        raise DataError(f"There is no file {root or '(none given)'}; data.root should be {what}.")
    return file


def _check_columns(listing: Listing) -> None:
    found = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in listing.columns}
    for column in COLUMNS:
        if column in listing.columns:
            continue
        for lookalike in (column, *LOOKALIKES[column]):
            if lookalike in found:
                raise DataError(f"{listing.file}: rename the column '{found[lookalike]}' to '{column}'.")
    if "path" not in listing.columns:
        names = ", ".join(listing.columns) or "none"
        raise DataError(f"{listing.file} has no column 'path' (its columns: {names}); add one with the image files.")


def _paths(listing: Listing) -> list[Location]:
    paths = []
    for i, value in enumerate(listing.columns["path"]):
        if not isinstance(value, str) or not value.strip():
            raise listing.fault(i, "path", "there is no image file" if not value else f"{value!r} is no file name")
        paths.append(beside(listing.file.parent, value))
    return paths


def _splits(listing: Listing, n: int) -> list[str]:
    values = listing.columns.get("split")
    if values is None:
        return ["train"] * n
    for i, value in enumerate(values):
        if value not in SPLITS:
            raise listing.fault(i, "split", f"{value!r} is no split; use {', '.join(SPLITS)}")
    return list(values)


def _refuse_duplicates(listing: Listing, paths: Sequence[Location], splits: Sequence[str]) -> None:
    first: dict[tuple[Location, str], int] = {}
    for i, key in enumerate(zip(paths, splits, strict=True)):
        if key in first:
            raise listing.fault(i, "path", f"{key[0]} is already in the {key[1]} split at {listing.where(first[key])}")
        first[key] = i


def _numbers(listing: Listing, column: str, number: Callable[[Sequence[str]], dict[str, int]], n: int) -> list[int]:
    """The column as integers, `UNKNOWN` where a cell is empty."""
    values = listing.columns.get(column)
    if values is None:
        return [UNKNOWN] * n
    names = [_name(listing, column, i, value) for i, value in enumerate(values)]
    numbers = number([name for name in names if name is not None])
    return [UNKNOWN if name is None else numbers[name] for name in names]


def _name(listing: Listing, column: str, row: int, value: Any) -> str | None:
    """A cell as the name of a person or camera: 3, "3" and 3.0 are the same; None where it is empty or −1."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise listing.fault(row, column, f"{value!r} is neither a whole number nor a name")
    text = str(value).strip()
    match = _NUMBER.fullmatch(text)
    if match is None:
        if isinstance(value, float):
            raise listing.fault(row, column, f"{value!r} is no whole number")
        return text or None
    if int(match[1]) == UNKNOWN:
        return None
    if int(match[1]) < 0:
        raise listing.fault(row, column, f"{text} is negative; use -1 or nothing for unknown")
    return match[1]
