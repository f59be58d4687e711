"""`ImageTable`: a validated Arrow table, one row an image. Every reader ends here and everything starts here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reid_ray.errors import DataError
from reid_ray.locations import Location, readable
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
    "attributes": pa.list_(pa.int8()),
    "mesh": pa.string(),
}
"""Columns that some tables have, with their types."""


@dataclass(frozen=True)
class ImageTable:
    """Rows of images with what is known about them.

    `pid` and `camid` are `UNKNOWN` (−1) where the identity or the camera is not known. Cameras count from 0.
    Rows keep the order in which they are given: row i is image i for features, labels and samplers alike.

    Attributes:
        arrow: the table, with at least the columns of `SCHEMA`.
        name: what the data is called in logs and messages.
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
        unknown_splits = set(self.arrow["split"].unique().to_pylist()) - set(SPLITS)
        if unknown_splits:
            raise DataError(
                f"{self.name}: unknown split {', '.join(map(repr, sorted(unknown_splits)))}; use {', '.join(SPLITS)}."
            )

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
            columns[key] = pa.array(values, OPTIONAL_COLUMNS.get(key))
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
    def has_pids(self) -> bool:
        return bool(len(self)) and bool((self.pids != UNKNOWN).any())

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

    def write(self, path: Location) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(self.arrow, sink)
        path.write_bytes(sink.getvalue())

    @classmethod
    def read(cls, path: Location, name: str | None = None) -> ImageTable:
        return cls(pq.read_table(readable(path)), name or path.stem)
