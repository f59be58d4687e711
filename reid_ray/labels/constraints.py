"""Corrections by a person, `constraints.csv`, and what they say about the rows of a table.

| verdict | path_b | meaning |
|---|---|---|
| `same` | an image | both images show one person: they are in one cluster |
| `different` | an image | they show two people: they are never in one cluster |
| none yet | any | a question that is not answered: ignored |
| `junk` | empty | the image shows no person, or not one: it is in no cluster and counts as no neighbour |

`same` is transitive, and `different` holds between everything that is the same. A file that contradicts itself is
refused: no labelling satisfies it.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from reid_ray.errors import DataError
from reid_ray.io.paths import as_path
from reid_ray.types import IntArray

HEADER = ("path_a", "path_b", "verdict")
VERDICTS = ("same", "different", "junk")


def _no_pairs() -> IntArray:
    return np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True)
class Constraints:
    """Verdicts on rows, free of contradictions.

    Attributes:
        same: int64 [M, 2], pairs of rows in one cluster.
        different: int64 [K, 2], pairs of rows in two clusters.
        junk: int64 [J], rows in no cluster; they are in no pair.
    """

    same: IntArray = field(default_factory=_no_pairs)
    different: IntArray = field(default_factory=_no_pairs)
    junk: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def counts(self) -> dict[str, int]:
        """Number of verdicts of each kind, for the log."""
        return {f"n_{name}": len(getattr(self, name)) for name in VERDICTS}


class Verdict(NamedTuple):
    """A row of the file: the number of its line, and its cells. `second` is empty for `junk`."""

    line: int
    first: str
    second: str
    verdict: str


def parse_verdicts(text: str, source: str) -> list[Verdict]:
    """Read the text of a constraints file.

    Args:
        source: name of the file, for messages.

    Raises:
        DataError: a missing header, an unknown verdict, or a row with too few or too many paths; names the line.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    if tuple(cell.strip() for cell in next(reader, [])) != HEADER:
        raise DataError(f"{source} does not begin with the line '{','.join(HEADER)}'; add it, or save it as CSV.")
    found = []
    for cells in reader:
        if not cells or (len(cells) == len(HEADER) and not cells[2].strip()):
            continue  # a question without an answer
        line = reader.line_num
        if len(cells) != len(HEADER) or cells[2].strip() not in VERDICTS:
            raise DataError(
                f"{source}, line {line}: {','.join(cells)!r} is not two paths and a verdict ({', '.join(VERDICTS)})."
            )
        verdict = Verdict(line, cells[0], cells[1], cells[2].strip())
        if not verdict.first or bool(verdict.second) == (verdict.verdict == "junk"):
            needed = "one path, in path_a" if verdict.verdict == "junk" else "two paths"
            raise DataError(f"{source}, line {line}: the verdict '{verdict.verdict}' needs {needed}.")
        found.append(verdict)
    return found


def read_constraints(file: str, paths: Sequence[str], items: IntArray | None = None) -> Constraints:
    """The constraints of a file for the images of a table; arguments as in `resolve`.

    Raises:
        DataError: the file cannot be read or is invalid, or its verdicts contradict one another.
    """
    try:
        text = read_file(file).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
    return resolve(parse_verdicts(text, file), paths, source=file, items=items)


def read_file(file: str) -> bytes:
    """The content of a constraints file; `DataError` if it cannot be read."""
    try:
        return as_path(file).read_bytes()
    except OSError as error:
        raise DataError(f"labels.constraints={file} cannot be read: {error.strerror or error}.") from error


def resolve(
    verdicts: Sequence[Verdict], paths: Sequence[str], *, source: str, items: IntArray | None = None
) -> Constraints:
    """Verdicts on paths as constraints on rows.

    Args:
        paths: of the N images. A verdict may shorten a path to its last parts if that is unambiguous.
        source: name of the file, for messages.
        items: int64 [N], the number of the tracklet of each image, where tracklets are clustered: constraints are then
            on tracklets, and a junk frame makes its tracklet junk.

    Raises:
        DataError: a path of no image or of several, or a contradiction; names the lines.
    """
    find = _Finder(paths, source)
    rows = {
        at: tuple(find(path, verdict.line) for path in (verdict.first, verdict.second) if path)
        for at, verdict in enumerate(verdicts)
    }
    if items is not None:
        rows = {at: tuple(int(items[row]) for row in found) for at, found in rows.items()}
    errors = _contradictions(verdicts, rows)
    if errors:
        more = f" ({len(errors) - 1} more contradictions)" if len(errors) > 1 else ""
        raise DataError(f"{source}, {errors[0]}; remove one of these lines{more}.")
    kinds = {kind: [rows[at] for at, verdict in enumerate(verdicts) if verdict.verdict == kind] for kind in VERDICTS}
    pairs = {kind: np.array(kinds[kind], dtype=np.int64).reshape(-1, 2) for kind in ("same", "different")}
    return Constraints(pairs["same"], pairs["different"], np.unique(np.array(kinds["junk"], dtype=np.int64)))


def format_verdicts(verdicts: Sequence[tuple[str, str, str]]) -> str:
    """The text of a constraints file with these rows (path_a, path_b, verdict)."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n")  # a bare "\r" in a name needs quotes
    writer.writerows([HEADER, *verdicts])
    return buffer.getvalue()


class _Finder:
    """Finds rows by path, or by the last parts of a path."""

    def __init__(self, paths: Sequence[str], source: str) -> None:
        self._rows = {path: row for row, path in enumerate(paths)}
        self._by_name: dict[str, list[int]] = {}
        for row, path in enumerate(paths):
            self._by_name.setdefault(path.rpartition("/")[2], []).append(row)
        self._paths = paths
        self._source = source

    def __call__(self, path: str, line: int) -> int:
        if path in self._rows:
            return self._rows[path]
        named = self._by_name.get(path.rpartition("/")[2], [])
        found = [row for row in named if self._paths[row].endswith(f"/{path}")]
        if len(found) != 1:
            number = f"the end of {len(found)} paths" if found else f"none of the {len(self._paths):,} images"
            raise DataError(
                f"{self._source}, line {line}: {path!r} is {number}; write paths as in the column 'path' of the labels."
            )
        return found[0]


def _contradictions(verdicts: Sequence[Verdict], rows: dict[int, tuple[int, ...]]) -> list[str]:
    """What is wrong, one message per verdict that contradicts others."""
    joined: dict[int, list[tuple[int, int]]] = {}  # row → (other row, line) by `same`
    mentioned: dict[int, int] = {}  # row → line of the first verdict on a pair with it
    for at, verdict in enumerate(verdicts):
        for row in rows[at] if verdict.verdict != "junk" else ():
            mentioned.setdefault(row, verdict.line)
        if verdict.verdict == "same":
            first, second = rows[at]
            joined.setdefault(first, []).append((second, verdict.line))
            joined.setdefault(second, []).append((first, verdict.line))
    found = []
    for at, verdict in enumerate(verdicts):
        if verdict.verdict == "junk" and rows[at][0] in mentioned:
            found.append(
                f"line {verdict.line}: {verdict.first!r} is junk, but line {mentioned[rows[at][0]]} compares it with "
                "another image"
            )
        elif verdict.verdict == "different":
            lines = _path(joined, *rows[at])
            if lines is not None:
                what = f"line {verdict.line}: {verdict.first!r} and {verdict.second!r} are different, but "
                named = (
                    f"line{'s' * (len(lines) > 1)} {_and(lines)} {'make' if len(lines) > 1 else 'makes'} them the same"
                )
                found.append(what + (named if lines else "are one image or tracklet"))
    return found


def _path(joined: dict[int, list[tuple[int, int]]], first: int, last: int) -> list[int] | None:
    """Lines that join two rows, the fewest; None if they are not joined."""
    lines: dict[int, list[int]] = {first: []}
    pending = deque([first])
    while pending and last not in lines:
        row = pending.popleft()
        for other, line in joined.get(row, ()):
            if other not in lines:
                lines[other] = [*lines[row], line]
                pending.append(other)
    return lines.get(last)


def _and(lines: Sequence[int]) -> str:
    ordered = [str(line) for line in sorted(set(lines))]
    return " and ".join(filter(None, [", ".join(ordered[:-1]), ordered[-1]])) if ordered else ""
