"""Search an index: the crops most similar to a query, with filters by camera and time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from reid_ray.data.arrays import AnyImage, Channels
from reid_ray.data.feature_folder import ROWS, read_features, read_manifest
from reid_ray.data.images import ImageReader
from reid_ray.data.readers import scan_dataset
from reid_ray.errors import DataError, RunError
from reid_ray.io.files import first_line, sha256_of
from reid_ray.io.paths import Location, as_path, as_readable
from reid_ray.labels.neighbours import nearest_to
from reid_ray.run import Run, load_run
from reid_ray.search.approximate import nearest_among_cells, open_inverted_file
from reid_ray.search.manifest import IndexManifest, read_index_manifest
from reid_ray.search.threshold import Threshold
from reid_ray.types import FeatureRows, FloatArray, IntArray

TIME = "time"
"""Column of the time of a crop."""

MAX_NORM_ERROR = 0.01
"""Largest difference from 1 of the norm of a query that is a feature."""


@dataclass(frozen=True)
class Matches:
    """The best matches of Q queries, best first.

    Attributes:
        rows: int64 [Q, k], rows of the index; −1 where fewer than k images pass the filters.
        similarities: float32 [Q, k], cosines; −inf where there is no row.
        threshold: threshold of the index at the time of the search.
    """

    rows: IntArray
    similarities: FloatArray
    threshold: Threshold | None

    @property
    def accepted(self) -> npt.NDArray[np.bool_] | None:
        """bool [Q, k], whether a match reaches the threshold; None without one."""
        return None if self.threshold is None else self.similarities >= np.float32(self.threshold.value)


@dataclass(frozen=True)
class JoinedFeatures:
    """Features of all parts as one matrix [N, D], a `types.FeatureRows`."""

    parts: Sequence[FeatureRows]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    def __getitem__(self, rows: slice, /) -> FloatArray:
        start, stop, _ = rows.indices(self.shape[0])
        found, first = [], 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, part.shape[0])
            if low < high:
                found.append(part[low:high])
            first += part.shape[0]
        if not found:
            return np.empty((0, self.shape[1]), dtype=np.float32)
        return found[0] if len(found) == 1 else np.concatenate(found)


class Index:
    """An index folder, read on demand. Images that are added after it was opened are not visible.

    Example:
        >>> index = Index("index/")                               # doctest: +SKIP
        >>> matches = index.search("query.jpg", top=5)            # doctest: +SKIP
        >>> index.table.take(matches.rows[0])["path"]             # doctest: +SKIP

    Args:
        path: the folder that `build_index` or `reid-ray index` wrote.
        run: directory of the run, if it has moved; it must have the same model.

    Raises:
        DataError: the folder is not an index.
    """

    def __init__(self, path: str | Location, *, run: str | Location | None = None) -> None:
        self.path = as_path(path)
        self.manifest: IndexManifest = read_index_manifest(self.path)
        self._run_path = self.manifest.run if run is None else run
        self._readers: dict[int, ImageReader] = {}

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r})"

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def part_tables(self) -> tuple[pa.Table, ...]:
        """The table of each part."""
        return tuple(self._rows(part.name) for part in self.manifest.parts)

    @cached_property
    def table(self) -> pa.Table:
        """One row per image: path, pid, camid and the other columns of the tables, null where a part has none."""
        return pa.concat_tables(self.part_tables, promote_options="default").combine_chunks()

    @cached_property
    def features(self) -> JoinedFeatures:
        """float32 [N, D], memory-mapped."""
        try:
            return JoinedFeatures([read_features(self.path / part.name).flat() for part in self.manifest.parts])
        except DataError as error:
            damage = str(error).partition(";")[0]  # the rest is about folders of 'reid-ray extract'
            raise DataError(f"{self.path} is damaged ({damage}); build the index again.") from error

    @property
    def threshold(self) -> Threshold | None:
        return self.manifest.threshold

    @cached_property
    def run(self) -> Run:
        """The run whose model made the features.

        Raises:
            RunError: it has moved, or its model has changed.
        """
        run = load_run(self._run_path)
        run.use_model(self.manifest.which)
        digest = sha256_of(run.directory.model_file(self.manifest.which))
        if digest != read_manifest(self.path / self.manifest.parts[0].name).model:
            raise RunError(
                f"The {self.manifest.which} model of {run.path} is not the one that made {self.path}; was the run "
                f"trained further? Build the index again, or pass the right run."
            )
        return run

    def search(
        self,
        queries: AnyImage | Iterable[AnyImage],
        *,
        top: int = 20,
        cameras: Collection[int] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        approximate: bool = False,
        channels: Channels = "rgb",
    ) -> Matches:
        """The images most similar to each query.

        Args:
            queries: one image or several, as for `Run.embed`; or their features, float [Q, D], L2-normalised.
            top: matches per query.
            cameras: only images of these cameras (the column `camid`).
            since: only images taken at this time or later (the column `time`, without time zone).
            until: only images taken before this time.
            approximate: compare each query with the images that faiss proposes instead of all; some matches may be
                missing, the similarities of the others are exact. The first such search writes a file into the index.
            channels: order of the channels of arrays: "rgb" or "bgr".

        Raises:
            ConfigError: `approximate` without faiss.
            DataError: an image cannot be read, features that are not normalised, or the index lacks the column of a
                filter.
            RunError: the run cannot be opened; it is not needed for queries that are features.
        """
        if isinstance(queries, np.ndarray) and queries.ndim == 2 and queries.dtype.kind == "f":
            embedded = queries.astype(np.float32, copy=False)
            norms = np.linalg.norm(embedded, axis=1)
            if (np.abs(norms - 1) > MAX_NORM_ERROR).any():
                raise DataError(
                    f"Queries are features of norm {norms.min():.3g} to {norms.max():.3g}, and must be L2-normalised; "
                    f"divide each by its norm."
                )
        else:
            embedded = self.run.embed(queries, channels=channels)
        allowed = self._allowed(cameras, since, until)
        if approximate:
            found = nearest_among_cells(embedded, self.features, top, self._inverted_file, allowed=allowed)
        else:
            found = nearest_to(embedded, self.features, top, allowed=allowed)
        return Matches(found.indices.astype(np.int64), found.similarities, self.threshold)

    @cached_property
    def _inverted_file(self) -> Any:
        return open_inverted_file(self.path, self.features)

    def image(self, row: int) -> Tensor:
        """uint8 RGB [3, h, w] of an indexed image; `DataError` if it can no longer be read."""
        number = int(np.searchsorted(np.cumsum([table.num_rows for table in self.part_tables]), row, side="right"))
        if number not in self._readers:
            self._readers[number] = scan_dataset(self.manifest.parts[number].data).images
        return self._readers[number].read(self.table["path"][row].as_py())

    def _allowed(
        self, cameras: Collection[int] | None, since: datetime | None, until: datetime | None
    ) -> npt.NDArray[np.bool_] | None:
        """bool [N], the images that pass the filters; None without filters."""
        if cameras is None and since is None and until is None:
            return None
        allowed = np.ones(len(self), dtype=bool)
        if cameras is not None:
            allowed &= np.isin(self.table["camid"].to_numpy(), sorted(cameras))
        for limit, keeps in ((since, pc.greater_equal), (until, pc.less)):
            if limit is None:
                continue
            if TIME not in self.table.column_names:
                raise DataError(
                    f"{self.path} has no column '{TIME}', which --since and --until read; index a list with one."
                )
            mask: Any = keeps(self.table[TIME], pa.scalar(limit, self.table.schema.field(TIME).type))
            allowed &= np.asarray(pc.fill_null(mask, False))
        if not allowed.any():
            raise DataError(f"No image of {self.path} passes the filters; {self._camera_hint()}.")
        return cast("npt.NDArray[np.bool_]", allowed)

    def _camera_hint(self) -> str:
        cameras = sorted(self.table["camid"].unique().to_pylist())
        return f"its cameras are {', '.join(map(str, cameras))} (-1: not known)"

    def _rows(self, part: str) -> pa.Table:
        file = self.path / part / ROWS
        try:
            return pq.ParquetFile(as_readable(file)).read()  # read_table imports pandas
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"Cannot read {file} ({first_line(error)}); build the index again.") from error
