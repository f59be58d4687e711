"""`ImageTable`: a validated Arrow table with one row per image, the output of every reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from reid_ray.errors import DataError
from reid_ray.io.paths import Location, as_readable
from reid_ray.types import UNKNOWN, IntArray

SPLITS = ("train", "query", "gallery")

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("pid", pa.int64(), nullable=False),
        pa.field("camid", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
"""The columns every table has. `path` is a file path, or a key that the table's image source understands."""

OPTIONAL_COLUMNS = {
    "modality": pa.string(),
    "tracklet": pa.int64(),
    "mesh": pa.string(),
    "time": pa.timestamp("us"),
}
"""Columns that some tables have: `MODALITIES`, the number of the image's tracklet (`UNKNOWN`: in none), the path of its
body mesh (null: none), and the time at which it was taken (null: not known)."""

ATTRIBUTE_PREFIX = "attr_"
"""Every column with this prefix is an attribute of the person: int8, 0 … n−1, `UNKNOWN` where it is not known."""

MODALITIES = ("visible", "infrared")
"""Values of the column `modality`, in the order of their codes."""


@dataclass(frozen=True)
class ImageTable:
    """Rows of images with their metadata.

    `pid` and `camid` are `UNKNOWN` (−1) where the identity or the camera is not known. Cameras count from 0.
    Rows keep the order in which they are given: row i is image i for features, labels and samplers alike.

    Attributes:
        arrow: the table, with at least the columns of `SCHEMA`.
        name: name of the data in logs and messages.
    """

    arrow: pa.Table
    name: str = "images"

    def __post_init__(self) -> None:
        for column in SCHEMA:
            if column.name not in self.arrow.column_names:
                raise DataError(f"{self.name}: the table has no column '{column.name}'.")
            if self.arrow.schema.field(column.name).type != column.type:
                found = self.arrow.schema.field(column.name).type
                raise DataError(f"{self.name}: column '{column.name}' has type {found}; it should be {column.type}.")
            if self.arrow[column.name].null_count:
                raise DataError(
                    f"{self.name}: column '{column.name}' has {self.arrow[column.name].null_count} empty cells."
                )
        self._check_values("split", SPLITS)
        for name in self.arrow.column_names:
            if name in SCHEMA.names:
                continue
            expected = column_type(name)
            if expected is None:
                raise DataError(f"{self.name}: unknown column '{name}'; a table has {', '.join(known_columns())}.")
            if self.arrow.schema.field(name).type != expected:
                found = self.arrow.schema.field(name).type
                raise DataError(f"{self.name}: column '{name}' has type {found}; it should be {expected}.")
        if "modality" in self.arrow.column_names:
            self._check_values("modality", MODALITIES)

    def _check_values(self, column: str, allowed: Sequence[str]) -> None:
        unknown = set(self.arrow[column].unique().to_pylist()) - set(allowed)
        if unknown:
            named = ", ".join(sorted(map(repr, unknown)))
            raise DataError(f"{self.name}: unknown {column} {named}; use {', '.join(allowed)}.")

    @classmethod
    def from_columns(
        cls,
        *,
        path: Sequence[str],
        pid: Sequence[int] | IntArray | None = None,
        camid: Sequence[int] | IntArray | None = None,
        split: str | Sequence[str] = "train",
        name: str = "images",
        extra: Mapping[str, Any] | None = None,
    ) -> ImageTable:
        """Build a table from columns; identities and cameras left out are `UNKNOWN`."""
        n = len(path)
        unknown = np.full(n, UNKNOWN, dtype=np.int64)
        columns = {
            "path": pa.array(path, pa.string()),
            "pid": pa.array(unknown if pid is None else pid, pa.int64()),
            "camid": pa.array(unknown if camid is None else camid, pa.int64()),
            "split": pa.array([split] * n if isinstance(split, str) else split, pa.string()),
        }
        for key, values in (extra or {}).items():
            columns[key] = pa.array(values, column_type(key))
        return cls(pa.table(columns), name)

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    @property
    def paths(self) -> list[str]:
        return list(self.arrow["path"].to_pylist())

    @property
    def pids(self) -> IntArray:
        """int64 [N]; `UNKNOWN` where the identity is not known."""
        return np.asarray(self.arrow["pid"].to_numpy(), dtype=np.int64)

    @property
    def camids(self) -> IntArray:
        """int64 [N]; `UNKNOWN` where the camera is not known."""
        return np.asarray(self.arrow["camid"].to_numpy(), dtype=np.int64)

    @property
    def modalities(self) -> IntArray:
        """int64 [N], positions in `MODALITIES`; `UNKNOWN` where the table has no such column."""
        if "modality" not in self.arrow.column_names:
            return np.full(len(self), UNKNOWN, dtype=np.int64)
        codes = {name: code for code, name in enumerate(MODALITIES)}
        return np.array([codes[name] for name in self.arrow["modality"].to_pylist()], dtype=np.int64)

    @property
    def tracklets(self) -> IntArray:
        """int64 [N], the tracklet of each image; `UNKNOWN` where it is in none."""
        if "tracklet" not in self.arrow.column_names:
            return np.full(len(self), UNKNOWN, dtype=np.int64)
        return np.asarray(self.arrow["tracklet"].fill_null(UNKNOWN).to_numpy(), dtype=np.int64)

    @property
    def times(self) -> list[datetime | None]:
        """The time at which each image was taken, N values; None where it is not known."""
        if "time" not in self.arrow.column_names:
            return [None] * len(self)
        return list(self.arrow["time"].to_pylist())

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Attributes in the order of the table's columns, without the prefix."""
        names: list[str] = self.arrow.column_names
        return tuple(name.removeprefix(ATTRIBUTE_PREFIX) for name in names if name.startswith(ATTRIBUTE_PREFIX))

    @property
    def attributes(self) -> IntArray:
        """int64 [N, M], the values of `attribute_names`; `UNKNOWN` where one is not known."""
        columns = [self.arrow[ATTRIBUTE_PREFIX + name].fill_null(UNKNOWN).to_numpy() for name in self.attribute_names]
        return np.stack(columns, axis=1).astype(np.int64) if columns else np.empty((len(self), 0), dtype=np.int64)

    def column(self, name: str) -> IntArray:
        """A column as numbers for batches and protocols: int64 [N] or, for `attributes`, [N, M].

        Raises:
            DataError: the table has no such column.
        """
        numeric = {
            "pid": lambda: self.pids,
            "camid": lambda: self.camids,
            "modality": lambda: self.modalities,
            "tracklet": lambda: self.tracklets,
            "attributes": lambda: self.attributes,
        }
        present = self.attribute_names if name == "attributes" else name in self.arrow.column_names
        if name not in numeric or not present:
            there = [each for each in numeric if each in self.arrow.column_names]
            there += ["attributes"] * bool(self.attribute_names)
            raise DataError(f"{self.name} has no column '{name}', which is needed here; it has {', '.join(there)}.")
        return numeric[name]()

    @property
    def has_pids(self) -> bool:
        return bool(len(self)) and bool((self.pids != UNKNOWN).any())

    @property
    def n_identities(self) -> int:
        """Known identities among the rows."""
        return len(np.unique(self.pids[self.pids != UNKNOWN]))

    @property
    def has_cameras(self) -> bool:
        return bool(len(self)) and bool((self.camids != UNKNOWN).any())

    def split(self, name: str) -> ImageTable:
        """The rows of one split, in order."""
        mask = np.array([value == name for value in self.arrow["split"].to_pylist()], dtype=bool)
        return ImageTable(self.arrow.filter(pa.array(mask)), f"{self.name}/{name}")

    def take(self, rows: IntArray) -> ImageTable:
        return ImageTable(self.arrow.take(pa.array(rows)), self.name)

    def without_pids(self) -> ImageTable:
        return self._with_unknown("pid")

    def without_cameras(self) -> ImageTable:
        return self._with_unknown("camid")

    def _with_unknown(self, column: str) -> ImageTable:
        index = self.arrow.column_names.index(column)
        unknown = pa.array(np.full(len(self), UNKNOWN, dtype=np.int64))
        return ImageTable(self.arrow.set_column(index, SCHEMA.field(column), unknown), self.name)

    def where(self, mask: npt.NDArray[np.bool_]) -> ImageTable:
        """The rows where `mask` [N] is true, in order."""
        return ImageTable(self.arrow.filter(pa.array(mask)), self.name)

    def write(self, path: Location) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(self.arrow, sink)
        path.write_bytes(sink.getvalue())

    @classmethod
    def read(cls, path: Location, name: str | None = None) -> ImageTable:
        return cls(pq.read_table(as_readable(path)), name or path.stem)


def known_columns() -> tuple[str, ...]:
    """Names of columns that a table may have; `attr_NAME` stands for any attribute."""
    return (*SCHEMA.names, *OPTIONAL_COLUMNS, f"{ATTRIBUTE_PREFIX}NAME")


def column_type(name: str) -> pa.DataType | None:
    """The Arrow type of a column; None for a name that is not a column of a table."""
    if name in SCHEMA.names:
        return SCHEMA.field(name).type
    if name.startswith(ATTRIBUTE_PREFIX) and name != ATTRIBUTE_PREFIX:
        return pa.int8()
    return OPTIONAL_COLUMNS.get(name)
