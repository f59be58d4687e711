"""Reading images that are embedded in a Parquet file: a column `image` of {bytes, path}, as `datasets` writes it.

A row group is read as a whole, and the most recent ones are cached, so images are cheap to read in file order and
expensive in any other: pack such data before training if it exceeds the image cache.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from reid_ray.data.decoding import DEFAULT, Decoding
from reid_ray.data.images import decode, read_file
from reid_ray.errors import DataError
from reid_ray.io.files import first_line
from reid_ray.io.paths import as_path, as_readable, resolve_beside

COLUMN = "image"

KEPT_GROUPS = 4
"""Row groups in memory: at least one per reading thread."""

_KEY = re.compile(r"row-(?P<row>[0-9]{9,12})")


def key_of(row: int) -> str:
    """The path in a table that names the image of a row."""
    return f"row-{row:09d}"


def has_embedded_images(schema: pa.Schema) -> bool:
    """Whether a file has a column of images in the format of `datasets`."""
    if COLUMN not in schema.names:
        return False
    kind = schema.field(COLUMN).type
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


@dataclass(frozen=True)
class EmbeddedImages:
    """Reads the images of a Parquet file. Each process opens the file when it first needs it.

    Attributes:
        file: the Parquet file.
        decoding: how images become pixels.
    """

    file: str
    decoding: Decoding = DEFAULT
    _groups: OrderedDict[int, Any] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)
    _opened: list[tuple[Any, Any]] = field(default_factory=list, init=False, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[EmbeddedImages], tuple[str, Decoding]]:
        return EmbeddedImages, (self.file, self.decoding)  # open files are not pickled

    def read(self, path: str) -> Tensor:
        """uint8 RGB [3, H, W] of the image that `path` names; `DataError` where it cannot be read."""
        return decode(self.encoded(path), f"{self.file}#{path}", self.decoding)

    def encoded(self, path: str) -> bytes:
        """The image's file contents, from the row or from the file that it names."""
        match = _KEY.fullmatch(path)
        if match is None:
            raise DataError(f"'{path}' is not an image in {self.file}; keys look like {key_of(17)}.")
        row = self._row(int(match["row"]))
        content = row.get("bytes")
        if content:
            return bytes(content)
        name = row.get("path")
        if not name:
            raise DataError(f"{self.file}, {path}: there is neither an image nor the name of a file.")
        return read_file(str(resolve_beside(as_path(self.file).parent, name)))

    def _row(self, row: int) -> dict[str, Any]:
        with self._lock:
            file, starts = self._open()
            group = int(np.searchsorted(starts, row, side="right")) - 1
            if row >= starts[-1]:
                raise DataError(f"{self.file} has only {starts[-1]} rows; scan the data again.")
            if group not in self._groups:
                try:
                    self._groups[group] = file.read_row_group(group, columns=[COLUMN])[COLUMN]
                except (OSError, pa.ArrowException) as error:
                    raise DataError(f"Cannot read {self.file} ({first_line(error)}); write it again.") from error
                if len(self._groups) > KEPT_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            return self._groups[group][row - int(starts[group])].as_py() or {}

    def _open(self) -> tuple[Any, Any]:
        """The file, and the first row of each row group followed by the number of rows."""
        if not self._opened:
            try:
                file = pq.ParquetFile(as_readable(as_path(self.file)))
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"Cannot read {self.file} ({first_line(error)}); write it again.") from error
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            self._opened.append((file, np.cumsum([0, *sizes])))
        return self._opened[0]
