"""Shared code of the CSV and Parquet readers: columns in, rows out, every fault named by row and column."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from reid_ray.data.holdout import as_query_and_gallery
from reid_ray.data.readers.numbering import camera_numbers, person_numbers
from reid_ray.data.readers.scan import Rows, Scan, missing_files
from reid_ray.data.table import ATTRIBUTE_PREFIX, MODALITIES, SPLITS, column_type, known_columns
from reid_ray.errors import DataError
from reid_ray.io.paths import Location, as_path, resolve_beside
from reid_ray.types import UNKNOWN

ALIASES = {"identity": "pid", "file_name": "path"}
"""Unambiguous synonyms of columns; public animal datasets have `identity`, the `metadata.csv` of image folders that
`datasets` reads has `file_name`."""

LOOKALIKES = {
    "path": ("filepath", "filename", "file", "image", "imagepath"),
    "pid": ("person", "personid", "individual", "individualid", "vehicle", "vehicleid", "pids"),
    "camid": ("camera", "cameraid", "cam", "camids"),
    "split": ("subset", "set", "splits"),
    "modality": ("spectrum", "modalities"),
    "tracklet": ("track", "trackid", "trackletid", "tracklets"),
    "mesh": ("meshfile", "meshpath"),
}
"""Ambiguous synonyms of columns. They may mean something else, so they are not read; ignoring them could lose the
cameras, for example, without notice, so they are errors."""

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "bounding_box_train", "image_train"), "train"),
    **dict.fromkeys(("query", "queries", "probe", "image_query"), "query"),
    **dict.fromkeys(("gallery", "bounding_box_test", "image_test", "database"), "gallery"),
}
"""Names of splits in lists, in lower case."""

TEST_NAMES = ("test", "testing", "val", "valid", "validation")
"""Test splits of other toolkits, which are not divided into query and gallery."""

UNKNOWN_NAMES = frozenset({"", "nan", "-nan", "none", "null", "n/a", "#n/a", "<na>", "nat"})
"""Spellings of a missing value, in lower case."""
UNKNOWN_IN_CAPITALS = frozenset({"NA", "na", "#NA"})
"""Case-sensitive spellings of a missing value: Na is a name."""

MODALITY_NAMES = {
    **dict.fromkeys(("visible", "rgb", "vis", "v"), "visible"),
    **dict.fromkeys(("infrared", "ir", "nir", "thermal", "i"), "infrared"),
}
"""Names of modalities in lists, in lower case."""

MAX_ATTRIBUTE = 127
"""Attributes are stored as int8."""

TYPO = 0.8
"""Similarity of names above which an unknown column is taken for a misspelt one."""

_NUMBER = re.compile(r"(-?[0-9]{1,18})(\.0*)?")  # tables that once had gaps write 3 as 3.0; int64 holds 18 digits


@dataclass(frozen=True)
class Listing:
    """Columns as written in a file.

    Attributes:
        file: the CSV or Parquet file; paths in it are relative to its folder, absolute, or URIs in an object store.
        columns: name → values, one per row.
        where: from a row's index to its place in the file ("line 7").
        note: how the file was read, for the message that its columns are not there.
        keys: names of the images, one per row, if the file itself holds them; it then has no column `path`.
    """

    file: Location
    columns: Mapping[str, Sequence[Any]]
    where: Callable[[int], str]
    note: str = ""
    keys: Sequence[str] | None = None

    def fault(self, row: int, column: str, what: str) -> DataError:
        return DataError(f"{self.file}, {self.where(row)}, column '{column}': {what}.")


def scan_listing(listing: Listing) -> Scan:
    """Rows of a listing with the column `path` and, where there are any, the other columns of `ImageTable`.

    Case and surrounding spaces in names of columns are ignored. Empty cells, −1 and the usual spellings of a missing
    value (nan, None, NA; see `UNKNOWN_NAMES`) are an unknown identity, camera, tracklet or attribute. Cameras are
    numbered from 0 without gaps; integer pids and tracklets are kept, others are numbered by name. A column of another
    name is left out, with a note. Splits may have the names of other toolkits; `test` or `val` is the gallery where
    there are queries, and is otherwise divided into query and gallery (`as_query_and_gallery`).

    Raises:
        DataError: no column `path`, a column whose name resembles a known one, an empty path, an unknown split or
            modality, a negative number other than −1, an attribute that is not a small whole number, the same image
            twice in one split, query without gallery.
    """
    listing, unread = _with_known_columns(listing)
    files = _paths(listing) if listing.keys is None else []
    paths: Sequence[Location | str] = listing.keys or files
    pids = _numbers(listing, "pid", person_numbers, len(paths))
    splits, is_divided = _splits(listing, pids)
    _refuse_duplicates(listing, paths, splits)
    camids = _numbers(listing, "camid", camera_numbers, len(paths))
    extra = _optional_columns(listing, len(paths))
    missing = missing_files(files)
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
    table = rows.table(listing.file.stem)
    return Scan(
        as_query_and_gallery(table) if is_divided else table,
        problems=tuple(rows.problems),
        needs=tuple((split, str(listing.file)) for split in ("train", *(("query", "gallery") if tested else ()))),
        notes=(*_unread_note(listing, unread), *_division_note(listing, is_divided)),
    )


def column_of(name: str) -> str | None:
    """The table column for a heading; None for a heading that is not read."""
    plain = name.strip().lower()
    if column_type(plain) is None:
        return ALIASES.get(plain)
    prefix = ATTRIBUTE_PREFIX if plain.startswith(ATTRIBUTE_PREFIX) else ""
    return prefix + name.strip()[len(prefix) :] if prefix else plain  # names of attributes keep their capitals


def listing_file(root: str | None, what: str) -> Location:
    """The listing itself, or `DataError` naming it."""
    file = as_path(root or "")
    if not root or not file.is_file():
        raise DataError(f"There is no file {root or '(none given)'}; data.root should be {what}.")
    return file


def _with_known_columns(listing: Listing) -> tuple[Listing, list[str]]:
    """The listing with only the columns of a table, under their standard names, and the headings of the others."""
    headings: dict[str, str] = {}
    unread = []
    for heading in listing.columns:
        column = column_of(heading)
        if column is None or (column in headings and heading.strip().lower() in ALIASES):
            unread.append(heading)
        elif column in headings and headings[column].strip().lower() not in ALIASES:
            raise DataError(f"{listing.file} has the column '{column}' twice: '{headings[column]}' and '{heading}'.")
        else:
            unread += [headings[column]] if column in headings else []
            headings[column] = heading
    _refuse_lookalikes(listing, unread, headings)
    if "path" not in headings and listing.keys is None:
        names = ", ".join(listing.columns) or "none"
        note = f", {listing.note}" if listing.note and listing.columns else ""
        raise DataError(
            f"{listing.file} has no column 'path' (its columns: {names}){note}; the first line should name the "
            f"columns, and 'path' that of the image files."
        )
    columns = {column: listing.columns[heading] for column, heading in headings.items()}
    return replace(listing, columns=columns), unread


def _refuse_lookalikes(listing: Listing, unread: Sequence[str], headings: Mapping[str, str]) -> None:
    found = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in unread}
    for column, lookalikes in LOOKALIKES.items():
        for lookalike in () if column in headings or (column == "path" and listing.keys) else (column, *lookalikes):
            if lookalike in found:
                raise DataError(f"{listing.file}: rename the column '{found[lookalike]}' to '{column}'.")
    for name in unread:
        near = difflib.get_close_matches(name, known_columns(), n=1, cutoff=TYPO)
        if near and near[0] not in headings:
            raise DataError(
                f"{listing.file}: nothing reads the column '{name}'; did you mean '{near[0]}'? Rename it or drop it."
            )


def _paths(listing: Listing) -> list[Location]:
    paths = []
    for i, value in enumerate(listing.columns["path"]):
        if not isinstance(value, str) or not value.strip():
            raise listing.fault(i, "path", "there is no image file" if not value else f"{value!r} is not a file name")
        path = resolve_beside(listing.file.parent, value)
        if "\\" in value and not path.exists():  # a Windows path; on other systems a name may contain a backslash
            path = resolve_beside(listing.file.parent, value.replace("\\", "/"))
        paths.append(path)
    return paths


def _splits(listing: Listing, pids: Sequence[int]) -> tuple[list[str], bool]:
    """The split of each row, and whether the gallery must be divided into query and gallery."""
    values = listing.columns.get("split")
    if values is None:
        return ["train"] * len(pids), False
    plain = [value.strip().lower() if isinstance(value, str) else value for value in values]
    tests = {value: i for i, value in reversed(list(enumerate(plain))) if value in TEST_NAMES}
    splits = ["gallery" if value in tests else SPLIT_NAMES.get(value, "") for value in plain]
    for i, split in enumerate(splits):
        if not split:
            raise listing.fault(i, "split", f"{values[i]!r} is not a split; use {', '.join(SPLITS)}")
    if not tests:
        return splits, False
    first = min(tests.values())
    if len(tests) > 1 or "gallery" in (SPLIT_NAMES.get(value) for value in plain):
        both = ", ".join(map(repr, dict.fromkeys(value for value in plain if value in tests or value == "gallery")))
        raise listing.fault(first, "split", f"{both} are several test sets; keep one, or use {', '.join(SPLITS)}")
    if "query" in splits:
        return splits, False
    if all(pid == UNKNOWN for pid, split in zip(pids, splits, strict=True) if split == "gallery"):
        raise listing.fault(
            first,
            "split",
            f"{values[first]!r} is not a split; use {', '.join(SPLITS)}, or give the pids by which it can be divided "
            f"into query and gallery",
        )
    return splits, True


def _refuse_duplicates(listing: Listing, paths: Sequence[Location | str], splits: Sequence[str]) -> None:
    first: dict[tuple[Location | str, str], int] = {}
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
    """Values of the optional columns that exist: modality, tracklet, mesh, time and attributes."""
    found: dict[str, list[Any]] = {}
    for name, values in listing.columns.items():
        if name == "modality":
            found[name] = [_modality(listing, i, value) for i, value in enumerate(values)]
        elif name == "tracklet":
            found[name] = _numbers(listing, name, person_numbers, n)
        elif name == "mesh":
            found[name] = [_mesh(listing, i, value) for i, value in enumerate(values)]
        elif name == "time":
            found[name] = [_time(listing, i, value) for i, value in enumerate(values)]
        elif name.startswith(ATTRIBUTE_PREFIX):
            found[name] = [_attribute(listing, name, i, value) for i, value in enumerate(values)]
    return found


def _mesh(listing: Listing, row: int, value: Any) -> str | None:
    text = _name(listing, "mesh", row, value)
    return None if text is None else str(resolve_beside(listing.file.parent, text))


def _time(listing: Listing, row: int, value: Any) -> datetime | None:
    """A time without time zone: as written, or converted to UTC if the list gives an offset."""
    if value is None or (isinstance(value, str) and value.strip().lower() in UNKNOWN_NAMES):
        return None
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value.strip())
        return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, AttributeError, OverflowError) as error:
        raise listing.fault(
            row, "time", f"{value!r} is not a time; write it as 2026-05-01T18:00:00, or drop the column"
        ) from error


def _modality(listing: Listing, row: int, value: Any) -> str:
    name = MODALITY_NAMES.get(str(value).strip().lower())
    if name is None:
        raise listing.fault(row, "modality", f"{value!r} is not a modality; use {', '.join(MODALITIES)}")
    return name


def _attribute(listing: Listing, column: str, row: int, value: Any) -> int:
    text = _name(listing, column, row, value)
    if text is None:
        return UNKNOWN
    if not text.isdecimal() or len(text) > len(str(MAX_ATTRIBUTE)) or int(text) > MAX_ATTRIBUTE:
        raise listing.fault(
            row,
            column,
            f"{value!r} is not an attribute value; use whole numbers from 0 to {MAX_ATTRIBUTE}, -1 for unknown",
        )
    return int(text)


def _unread_note(listing: Listing, unread: Sequence[str]) -> tuple[str, ...]:
    """A note on columns that are not read, except for an index without a heading, as pandas writes it."""
    named = [f"'{name}'" for name in unread if name and not name.startswith("__index_level_")]
    if not named:
        return ()
    known = ", ".join(known_columns())
    return (f"{listing.file}: columns that nothing reads: {', '.join(named)} (columns that are read: {known})",)


def _division_note(listing: Listing, is_divided: bool) -> tuple[str, ...]:
    if not is_divided:
        return ()
    return (f"{listing.file}: the test images are divided into query and gallery, by camera where it is known",)


def _name(listing: Listing, column: str, row: int, value: Any) -> str | None:
    """A cell as the name of an identity or camera: 3, "3" and 3.0 are the same; None if it is unknown."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise listing.fault(row, column, f"{value!r} is neither a whole number nor a name")
    text = str(value).strip()
    if text.lower() in UNKNOWN_NAMES or text in UNKNOWN_IN_CAPITALS:
        return None
    match = _NUMBER.fullmatch(text)
    if match is None:
        if isinstance(value, float):
            raise listing.fault(row, column, f"{value!r} is not a whole number")
        return text
    if int(match[1]) == UNKNOWN:
        return None
    if int(match[1]) < 0:
        raise listing.fault(row, column, f"{text} is negative; use -1 or nothing for unknown")
    return match[1]
