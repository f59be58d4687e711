"""What the CSV and Parquet readers share: columns in, rows out, every fault named by row and column."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reid_ray.data.readers.numbering import camera_numbers, person_numbers
from reid_ray.data.readers.scan import Rows, Scan, missing_files
from reid_ray.data.table import ATTRIBUTE_PREFIX, MODALITIES, SPLITS, column_type, known_columns
from reid_ray.errors import DataError
from reid_ray.locations import Location, beside, location
from reid_ray.types import UNKNOWN

LOOKALIKES = {
    "path": ("filepath", "filename", "file", "image", "imagepath"),
    "pid": ("person", "personid", "identity", "pids"),
    "camid": ("camera", "cameraid", "cam", "camids"),
    "split": ("subset", "set", "splits"),
    "modality": ("spectrum", "modalities"),
    "tracklet": ("track", "trackid", "trackletid", "tracklets"),
    "mesh": ("meshfile", "meshpath"),
}
"""What people also call the columns. Ignoring them would lose, say, the cameras without a word."""

MODALITY_NAMES = {
    **dict.fromkeys(("visible", "rgb", "vis", "v"), "visible"),
    **dict.fromkeys(("infrared", "ir", "nir", "thermal", "i"), "infrared"),
}
"""Names of modalities in lists, in lower case."""

MAX_ATTRIBUTE = 127
"""Attributes are stored as int8."""

TYPO = 0.8
"""Similarity of names above which an unknown column is taken for a misspelt one."""

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
    """Rows of a listing with the column `path` and, where there are any, the other columns of `ImageTable`.

    Empty cells and −1 are an unknown identity, camera, tracklet or attribute. Cameras are numbered from 0 without gaps;
    integer pids and tracklets are kept, others are numbered by name. A column of another name is left out, with a note.

    Raises:
        DataError: no column `path`, a column that looks like one of ours under another name, an empty path, an unknown
            split or modality, a negative number other than −1, an attribute that is no small whole number, the same
            image twice in one split, query without gallery.
    """
    _check_columns(listing)
    paths = _paths(listing)
    splits = _splits(listing, len(paths))
    _refuse_duplicates(listing, paths, splits)
    pids = _numbers(listing, "pid", person_numbers, len(paths))
    camids = _numbers(listing, "camid", camera_numbers, len(paths))
    extra = _optional_columns(listing, len(paths))
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
            rows.add(path, splits[i], pids[i], camids[i], **{name: values[i] for name, values in extra.items()})
    tested = {"query", "gallery"} & set(splits)
    return Scan(
        rows.table(listing.file.stem),
        problems=tuple(rows.problems),
        needs=tuple((split, str(listing.file)) for split in ("train", *(("query", "gallery") if tested else ()))),
        notes=_unread_columns(listing),
    )


def listing_file(root: str | None, what: str) -> Location:
    """The listing itself, or `DataError` naming it."""
    file = location(root or "")
    if not root or not file.is_file():
        raise DataError(f"There is no file {root or '(none given)'}; data.root should be {what}.")
    return file


def _check_columns(listing: Listing) -> None:
    found = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in listing.columns}
    for column, lookalikes in LOOKALIKES.items():
        if column in listing.columns:
            continue
        for lookalike in (column, *lookalikes):
            if lookalike in found:
                raise DataError(f"{listing.file}: rename the column '{found[lookalike]}' to '{column}'.")
    for name in listing.columns:
        near = difflib.get_close_matches(name, known_columns(), n=1, cutoff=TYPO) if column_type(name) is None else []
        if near:
            raise DataError(
                f"{listing.file}: nothing reads the column '{name}'; did you mean '{near[0]}'? Rename it or drop it."
            )
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


def _optional_columns(listing: Listing, n: int) -> dict[str, list[Any]]:
    """Values of the optional columns that are there: modality, tracklet, mesh and attributes."""
    found: dict[str, list[Any]] = {}
    for name, values in listing.columns.items():
        if name == "modality":
            found[name] = [_modality(listing, i, value) for i, value in enumerate(values)]
        elif name == "tracklet":
            found[name] = _numbers(listing, name, person_numbers, n)
        elif name == "mesh":
            found[name] = [str(beside(listing.file.parent, value)) if value else None for value in values]
        elif name.startswith(ATTRIBUTE_PREFIX):
            found[name] = [_attribute(listing, name, i, value) for i, value in enumerate(values)]
    return found


def _modality(listing: Listing, row: int, value: Any) -> str:
    name = MODALITY_NAMES.get(str(value).strip().lower())
    if name is None:
        raise listing.fault(row, "modality", f"{value!r} is no modality; use {', '.join(MODALITIES)}")
    return name


def _attribute(listing: Listing, column: str, row: int, value: Any) -> int:
    text = _name(listing, column, row, value)
    if text is None:
        return UNKNOWN
    if not text.isdecimal() or int(text) > MAX_ATTRIBUTE:
        raise listing.fault(
            row, column, f"{value!r} is no attribute value; use whole numbers from 0 to {MAX_ATTRIBUTE}, -1 for unknown"
        )
    return int(text)


def _unread_columns(listing: Listing) -> tuple[str, ...]:
    """A note naming the columns that nothing reads."""
    unread = [f"'{name}'" for name in listing.columns if column_type(name) is None]
    if not unread:
        return ()
    known = ", ".join(known_columns())
    return (f"{listing.file}: columns that nothing reads: {', '.join(unread)} (columns that are read: {known})",)


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
