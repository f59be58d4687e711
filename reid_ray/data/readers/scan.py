"""Result of a dataset reader: a table, and all problems that were found.

Readers do not stop at the first bad file. `read_dataset` turns the first problem into an error, `reid-ray data check`
lists them all; both use the same scan.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reid_ray.data.images import FileImages, ImageReader, printable
from reid_ray.data.table import SPLITS, ImageTable
from reid_ray.errors import DataError
from reid_ray.io.paths import Location, RemotePath, as_path
from reid_ray.types import UNKNOWN

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
    | {".pnm"}
)
"""Suffixes, in lower case, of images that `data.decoding` reads."""

Kind = Literal["empty split", "misnamed", "missing", "empty", "truncated", "unreadable", "duplicate", "not an image"]
"""Kinds of problems of a dataset, in the order of reports."""


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        kind: kind of problem.
        path: the file or folder concerned.
        detail: what is wrong and how to fix it.
    """

    kind: Kind
    path: str
    detail: str


@dataclass(frozen=True)
class Scan:
    """A scanned dataset: good rows and bad files.

    Attributes:
        table: the rows that could be read, train first, then query, then gallery.
        images: reads what the table's `path` names.
        problems: files that belong to the dataset and cannot be rows.
        folders: folders in which every file is expected to be an image.
        needs: split → where its images should be; each of these splits must have a row.
        notes: descriptions of what was left out on purpose.
    """

    table: ImageTable
    images: ImageReader = field(default_factory=FileImages)
    problems: tuple[Problem, ...] = ()
    folders: tuple[Location, ...] = ()
    needs: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def empty_splits(self) -> list[Problem]:
        """A problem for each required split without rows."""
        present = set(self.table.arrow["split"].unique().to_pylist())
        return [
            Problem(
                "empty split",
                where,
                f"The {split} split is empty: no usable images in {where} (jpg, png, gif, webp, bmp, tif and pnm "
                f"are read); put images there, or choose another data.layout.",
            )
            for split, where in self.needs
            if split not in present
        ]


class Rows:
    """Collects the rows and problems of a scan."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, int, str, Mapping[str, Any]]] = []
        self.problems: list[Problem] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, path: Location | str, split: str, pid: int = UNKNOWN, camid: int = UNKNOWN, **columns: Any) -> None:
        """Add a row, or a problem where the name cannot be stored (Arrow strings are UTF-8).

        Args:
            columns: values of optional columns of `ImageTable`; a column that some rows lack is null there.
        """
        text = str(path)
        if is_utf8(text):
            self._rows.append((text, pid, camid, split, columns))
        else:
            self.refuse("misnamed", path, "has a name that is not valid UTF-8; rename it")

    def refuse(self, kind: Kind, path: Location | str, what: str) -> None:
        """Record that `path` cannot be a row; `what` continues the message that begins with the path."""
        text = printable(path)
        self.problems.append(Problem(kind, text, f"{text} {what}."))

    def table(self, name: str) -> ImageTable:
        """The rows as a table: by split, within a split in the order in which they were added."""
        rank = {split: i for i, split in enumerate(SPLITS)}
        rows = sorted(self._rows, key=lambda row: rank[row[3]])
        extra = dict.fromkeys(column for row in rows for column in row[4])
        return ImageTable.from_columns(
            path=[row[0] for row in rows],
            pid=[row[1] for row in rows],
            camid=[row[2] for row in rows],
            split=[row[3] for row in rows],
            name=name,
            extra={column: [row[4].get(column) for row in rows] for column in extra},
        )


def walk_files(folder: Location) -> Iterator[Location]:
    """Every file below `folder`, sorted by relative path, links to folders followed once each.

    Raises:
        DataError: a folder cannot be listed.
    """

    if isinstance(folder, RemotePath):
        return iter(folder.files())

    def stop(error: OSError) -> None:
        raise DataError(f"Cannot list the folder {error.filename}: {error.strerror}; check its permissions.") from error

    found: list[Path] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        real = os.path.realpath(where)
        if real in seen:  # a link to a parent folder would loop forever
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found.extend(Path(where, name) for name in names)
    return iter(sorted(found))


def is_image_name(path: Location) -> bool:
    """Whether a file's name is that of a supported image. Dot files (macOS creates `._0001.jpg`) are excluded."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def image_files(folder: Location) -> list[Location]:
    """Every image below `folder`, sorted; empty where there is no such folder."""
    return [path for path in walk_files(folder) if is_image_name(path)] if folder.is_dir() else []


def missing_files(paths: Iterable[Location]) -> set[Location]:
    """The paths that are not files. Each folder is listed once, since a stat per file is slow on network disks."""
    present: dict[Location, set[str]] = {}
    missing = set()
    for path in paths:
        if path.parent not in present:
            present[path.parent] = _names(path.parent)
        if path.name not in present[path.parent]:
            missing.add(path)
    return missing


def existing_root(root: str | None, expected: str) -> Location:
    """The dataset's folder, or `DataError` naming it and what was expected there."""
    folder = as_path(root or "")
    if not root or not folder.is_dir():
        raise DataError(f"There is no folder {root or '(none given)'}; data.root should be {expected}.")
    return folder


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names(folder: Location) -> set[str]:
    if isinstance(folder, RemotePath):
        return {entry.name for entry in folder.iterdir()}
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_file()}
    except (OSError, ValueError):  # ValueError: a NUL byte in the name
        return set()
