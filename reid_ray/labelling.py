"""From a file of features to a file of labels, or to a table of scores for many settings.

This is the work of `reid-ray label`. The label engine (`reid_ray.labels`) takes arrays and knows nothing of files.
"""

from __future__ import annotations

import io
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import torch

from reid_ray.config import LabelsConfig
from reid_ray.data.feature_folder import ROWS, read_features
from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError, DataError
from reid_ray.io.files import atomic_write_bytes, parquet_bytes
from reid_ray.io.local_copy import local_copy
from reid_ray.io.paths import Location, as_path, as_readable
from reid_ray.labels.arguments import check_neighbourhood, within
from reid_ray.labels.asking import ASKED_DISTANCE, N_QUESTIONS, Question, questions
from reid_ray.labels.constraints import Constraints, format_verdicts, read_constraints
from reid_ray.labels.features import open_features
from reid_ray.labels.label_free import label_free_scores
from reid_ray.labels.quality import ground_truth_scores, label_statistics
from reid_ray.labels.refresh import ClusteringResult, OnStage, cluster_rows
from reid_ray.labels.sweep import Setting, sweep
from reid_ray.types import UNKNOWN, FloatArray, IntArray

KIB_PER_MB = 1024


@dataclass(frozen=True)
class FeatureTable:
    """Features and the table that describes their rows.

    Attributes:
        features: float32 [N, D], mapped into memory where possible; not checked yet.
        rows: N rows of any columns; None without a table.
        camids: int64 [N]; None where no camera is known.
        pids: int64 [N]; None where no identity is known.
        tracklets: int64 [N], `UNKNOWN` for images in none; None without a column `tracklet`.
    """

    features: FloatArray
    rows: pa.Table | None
    camids: IntArray | None
    pids: IntArray | None
    tracklets: IntArray | None


@dataclass(frozen=True)
class LabelReport:
    """Labels of a feature file, their quality and their cost.

    Attributes:
        result: labels, the Jaccard graph and the seconds of each stage.
        quality: `label_statistics`, `label_free_scores` and, where a pid is known, `ground_truth_scores`.
        shape: N and D of the features.
        seconds: of the clustering, without the scores.
        peak_mb: peak memory of the clustering in addition to that of the process before it.
        questions: pairs of images to compare, if requested.
    """

    result: ClusteringResult
    quality: dict[str, Any]
    shape: tuple[int, int]
    seconds: float
    peak_mb: float
    questions: list[Question]


@dataclass(frozen=True)
class SweepReport:
    """Results of a sweep (`labels.sweep.sweep`), in the order of the settings, and their cost."""

    results: list[dict[str, Any]]
    seconds: float
    peak_mb: float


def open_feature_table(features: str | Location, table: str | Location | None = None) -> FeatureTable:
    """Open features (a `.npy` file or a feature folder) and the table of their rows.

    Args:
        table: Parquet file with a row per feature. Default: the file of the same name next to FEATURES.npy, or the
            table of the feature folder; none where it does not exist.

    Raises:
        DataError: a file is missing or unreadable, or the table does not fit the features.
    """
    source = as_path(features)
    values = _open_features(source)
    rows = _read_rows(None if table is None else as_path(table), source, len(values))
    camids, pids = (_column(rows, name) for name in ("camid", "pid"))
    return FeatureTable(values, rows, camids, pids, _tracklets(rows))


def label_features(
    features: str | Location,
    out: str | Location,
    config: LabelsConfig,
    *,
    table: str | Location | None = None,
    device: str | None = None,
    on_stage: OnStage | None = None,
    ask: int = 0,
    gallery: str | Location | None = None,
) -> LabelReport:
    """Cluster the features of a file and write the labels: the table of rows with an int64 column `label`.

    Without a table of rows the labels get a column `row`, 0 … N−1.

    Args:
        out: Parquet file; replaced atomically.
        table: as in `open_feature_table`.
        device: where neighbours are searched; default CUDA where available.
        on_stage: called with the name of each stage when it starts.
        ask: number of questions (`labels.asking`) to write next to `out`, into `questions_file(out)`.
        gallery: folder of a cluster gallery to write (`galleries`), for images in files.

    Raises:
        ConfigError: the device does not exist here, settings require more images than there are, or questions about
            clusters that are not DBSCAN's with a fixed eps.
        DataError: features or table are invalid, `out` is not writable, or `labels.variant=camera` lacks cameras.
    """
    target = as_path(out)
    _check_out(target, (".parquet",))
    _check_device(device)
    opened = open_feature_table(features, table)
    if config.variant == "camera":
        _check_cameras(opened, features)
    check_neighbourhood(config, len(opened.features))
    compared = bool(ask) or gallery is not None
    if compared and (config.clusterer != "dbscan" or config.rho is not None):
        raise ConfigError("--ask and --gallery need labels.clusterer=dbscan with a fixed eps (labels.rho=null).")
    paths = _paths(opened, "--gallery" if gallery else "--ask") if compared else []
    n_rows, dim = opened.features.shape
    camids = np.full(n_rows, UNKNOWN, dtype=np.int64) if opened.camids is None else opened.camids
    constraints = _constraints(config, opened)
    memory = _PeakMemory()
    started = time.perf_counter()
    result = cluster_rows(
        opened.features,
        config,
        camids,
        device=device,
        on_stage=on_stage,
        constraints=constraints,
        max_distance=ASKED_DISTANCE if compared else 0,
    )
    seconds = time.perf_counter() - started
    peak_mb = memory.above_start_mb()
    if on_stage:
        on_stage("scores")
    quality: dict[str, Any] = label_statistics(result.raw)
    quality |= constraints.counts() if constraints else {}
    quality |= label_free_scores(
        result.raw, within(result.graph, config.eps) if compared else result.graph, opened.camids
    )
    if opened.pids is not None:
        quality |= ground_truth_scores(result.raw, opened.pids)
    rows = pa.table({"row": pa.array(np.arange(n_rows))}) if opened.rows is None else opened.rows
    if "label" in rows.column_names:
        rows = rows.drop_columns("label")
    _write(rows.append_column("label", pa.array(result.labels, pa.int64())), target)
    asked = questions(result.graph, result.raw, ask or N_QUESTIONS, constraints) if compared else []
    if ask:
        rows_of_file = [(paths[question.row], paths[question.other], "") for question in asked]
        atomic_write_bytes(questions_file(target), format_verdicts(rows_of_file).encode())
    if gallery is not None:
        from reid_ray.galleries import gallery_of_labels

        if on_stage:
            on_stage("gallery")
        table_of_images = ImageTable.from_columns(path=paths, pid=opened.pids, camid=opened.camids)
        gallery_of_labels(as_path(gallery), table_of_images, result, asked)
    return LabelReport(result, quality, (n_rows, dim), seconds, peak_mb, asked if ask else [])


def questions_file(out: Location) -> Location:
    """Where the questions about a file of labels go: a constraints file without verdicts."""
    return out.with_name(f"{out.stem}-questions.csv")


def sweep_features(
    features: str | Location,
    settings: Sequence[Setting],
    out: str | Location | None = None,
    *,
    table: str | Location | None = None,
    device: str | None = None,
    memory_mb: int = 1024,
    on_setting: Callable[[dict[str, Any]], None] | None = None,
) -> SweepReport:
    """Score many settings on the features of a file.

    Args:
        out: Parquet or CSV file for the results, a row per setting; None to write no file.
        table, device: as in `label_features`.
        memory_mb, on_setting: as in `labels.sweep.sweep`.

    Raises:
        ConfigError: the device does not exist here, or settings require more images than there are.
        DataError: features or table are invalid, `out` is not writable, or the variant `camera` lacks cameras.
    """
    target = None if out is None else as_path(out)
    if target is not None:
        _check_out(target, (".parquet", ".csv"))
    _check_device(device)
    opened = open_feature_table(features, table)
    if any(setting.variant == "camera" for setting in settings):
        _check_cameras(opened, features)
    for setting in settings:
        check_neighbourhood(setting, len(opened.features))
    memory = _PeakMemory()
    started = time.perf_counter()
    results = sweep(
        opened.features,
        settings,
        opened.camids,
        pids=opened.pids,
        tracklets=opened.tracklets,
        device=device,
        memory_mb=memory_mb,
        on_setting=on_setting,
    )
    report = SweepReport(results, time.perf_counter() - started, memory.above_start_mb())
    if target is not None:
        _write(pa.Table.from_pylist(results), target)
    return report


def _constraints(config: LabelsConfig, opened: FeatureTable) -> Constraints | None:
    """The constraints of a file; its paths are in the column `path` of the table of rows."""
    if config.constraints is None:
        return None
    return read_constraints(config.constraints, _paths(opened, f"labels.constraints={config.constraints}"))


def _paths(opened: FeatureTable, setting: str) -> list[str]:
    """The paths of the rows; a setting that needs them is named in the error."""
    if opened.rows is None or "path" not in opened.rows.column_names:
        raise DataError(f"{setting} names images, so the features need a table with a column 'path'; pass --table.")
    paths: list[str] = opened.rows["path"].to_pylist()
    return paths


def _check_out(out: Location, suffixes: tuple[str, ...]) -> None:
    """Refuse an output that cannot be written, before any work is done."""
    if out.suffix not in suffixes:
        raise DataError(f"--out {out} must end in {' or '.join(suffixes)}.")
    if not isinstance(out, Path):
        return
    if not out.parent.is_dir():
        raise DataError(f"The folder of {out} does not exist; create it, or choose another --out.")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise DataError(f"{out} cannot be written; choose another --out.")


def _check_device(device: str | None) -> None:
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without CUDA
        raise ConfigError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}") from error


def _check_cameras(opened: FeatureTable, features: str | Location) -> None:
    if opened.camids is None:
        raise DataError(f"labels.variant=camera needs a column 'camid'; no table with one was found for {features}.")


def _open_features(path: Location) -> FloatArray:
    """Features read on demand; those of a `.npy` file are copied only if they are not float32."""
    if path.is_dir():
        return read_features(path).flat()
    mapped = open_features(local_copy(path))
    return mapped if mapped.dtype == "float32" else mapped.astype("float32")


def _read_rows(table: Location | None, features: Location, n_rows: int) -> pa.Table | None:
    """The given table of rows, else the one next to the features, else None."""
    default = features / ROWS if features.is_dir() else features.with_suffix(".parquet")
    path = table or default
    if not path.is_file():
        if table is not None:
            raise DataError(f"--table {table} does not exist.")
        return None
    try:
        rows = pq.read_table(as_readable(path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    if rows.num_rows != n_rows:
        raise DataError(f"{path} has {rows.num_rows} rows and {features} has {n_rows}; pass the right file as --table.")
    return rows


def _column(rows: pa.Table | None, name: str) -> IntArray | None:
    """int64 [N] of a column; None if the column is missing or all its values are unknown."""
    if rows is None or name not in rows.column_names:
        return None
    column = rows[name]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"The column '{name}' of the table of rows must hold whole numbers, {UNKNOWN} for unknown.")
    values = np.asarray(column.to_numpy(), dtype=np.int64)
    return values if (values != UNKNOWN).any() else None


def _tracklets(rows: pa.Table | None) -> IntArray | None:
    """int64 [N], the tracklet of each row, of any type; a name that two splits share means two tracklets."""
    if rows is None or "tracklet" not in rows.column_names:
        return None
    columns = [rows[name].combine_chunks() for name in ("tracklet", "split") if name in rows.column_names]
    codes = [pc.fill_null(column.dictionary_encode().indices, UNKNOWN).to_numpy() for column in columns]
    groups = np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)[1].ravel()
    known = pc.fill_null(pc.not_equal(columns[0].cast(pa.string()), str(UNKNOWN)), False)
    return np.where(known.to_numpy(zero_copy_only=False), groups, UNKNOWN).astype(np.int64)


def _write(table: pa.Table, out: Location) -> None:
    if out.suffix == ".parquet":
        atomic_write_bytes(out, parquet_bytes(table))
    else:
        buffer = io.BytesIO()
        pacsv.write_csv(table, buffer)
        atomic_write_bytes(out, buffer.getvalue())


class _PeakMemory:
    """Peak resident memory of this process above its peak when the object was created."""

    def __init__(self) -> None:
        self._start = self._peak_mb()

    def above_start_mb(self) -> float:
        return self._peak_mb() - self._start

    @staticmethod
    def _peak_mb() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MB
