"""`reid-ray label`: features of a file to labels, or to a table of what many settings give."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reid_ray.cli.progress import counting, make_console
from reid_ray.config import LabelsConfig, load_config
from reid_ray.errors import ConfigError, DataError
from reid_ray.io.paths import Location, as_path, as_readable

# The engine brings PyTorch with it, so it is imported where it is used: --help should not wait for it.
if TYPE_CHECKING:
    import pyarrow as pa

    from reid_ray.labels.sweep import Setting
    from reid_ray.types import FloatArray, IntArray

app = typer.Typer()

KIB_PER_MB = 1024

TO_MAXIMISE = ("label_free", "silhouette", "camera_mix", "ari", "nmi", "pairwise_f1")
"""Scores of a sweep whose best setting is marked: the first three need no identities."""

SWEEP_SCORES = ("n_clusters", "n_outliers", "size_max", "label_free", "silhouette", "camera_entropy", "camera_mix")
CAPTION = "* best of the column; label_free is the one to choose by where there are no identities"

TRUTH_SCORES = ("ari", "nmi", "pairwise_precision", "pairwise_recall", "pairwise_f1")


@app.command(
    epilog="Examples:  reid-ray label features.npy --out labels.parquet labels.eps=0.5   |   "
    "reid-ray label features.npy --sweep eps=.4:.7:.05 --sweep k1=20,30 --out sweep.csv"
)
def label(
    features: Annotated[
        str,
        typer.Argument(
            metavar="FEATURES", help="L2-normalised features [N, D], as 'extract' writes: .npy or a folder."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[labels.KEY=VALUE]...", help="Settings to change (docs/configuration.md lists all)."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="Labels, .parquet; with --sweep the results, .parquet or .csv."),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(help="Parquet that describes the rows. Default: the one beside FEATURES.npy, or in the folder."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=START:STOP:STEP|A,B,…",
            help="Try these values instead of writing labels; several --sweep make a grid. Searches neighbours once.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where neighbours are searched, such as cpu or cuda:0. Default: a GPU if any.")
    ] = None,
    neighbours: Annotated[
        Literal["exact", "ivf", "hnsw"] | None,
        typer.Option(help="Exact search, or an approximate one by faiss; the same as labels.neighbours."),
    ] = None,
) -> None:
    """Cluster features into pseudo-labels, and say how long it took and how good they look."""
    from reid_ray.labels.arguments import check_neighbourhood
    from reid_ray.labels.features import check_features
    from reid_ray.labels.sweep import Setting, parse_grid

    config = _labels_config(overrides or [], neighbours)
    settings = parse_grid(sweep, Setting.of(config)) if sweep else []
    _check_device(device)
    if out is None and not settings:
        raise ConfigError("Where should the labels go? Give --out labels.parquet.")
    target = None if out is None else as_path(out)
    if target is not None:
        _check_out(target, (".parquet", ".csv") if settings else (".parquet",))
    source = as_path(features)
    values = _open_features(source)
    rows = _read_rows(None if table is None else as_path(table), source, len(values))
    camids, pids = (_column(rows, name, len(values)) for name in ("camid", "pid"))
    if camids is None and any(variant == "camera" for variant in (config.variant, *(s.variant for s in settings))):
        raise DataError(f"labels.variant=camera needs a column 'camid', and {features} has no table of rows with one.")
    check_features(values)
    if settings:
        for setting in settings:
            check_neighbourhood(setting, len(values))
        _sweep(values, settings, camids, pids, device, config.memory_mb, target)
    else:
        assert target is not None
        check_neighbourhood(config, len(values))
        _label(values, config, camids, pids, rows, device, target)


def _label(
    features: FloatArray,
    config: LabelsConfig,
    camids: IntArray | None,
    pids: IntArray | None,
    rows: pa.Table | None,
    device: str | None,
    out: Location,
) -> None:
    import numpy as np
    import pyarrow as pa

    from reid_ray.labels.label_free import label_free_scores
    from reid_ray.labels.quality import label_statistics, truth_scores
    from reid_ray.labels.refresh import cluster_rows
    from reid_ray.types import UNKNOWN

    n_rows = len(features)
    memory = _PeakMemory()
    started = time.perf_counter()
    known_camids = np.full(n_rows, UNKNOWN, dtype=np.int64) if camids is None else camids
    with _stages(make_console(stderr=True)) as on_stage:
        found = cluster_rows(features, config, known_camids, device=device, on_stage=on_stage)
        seconds = time.perf_counter() - started
        peak = memory.beyond_start_mb()
        on_stage("scores")
        quality: dict[str, Any] = label_statistics(found.raw)
        quality |= label_free_scores(found.raw, found.graph, camids)
        if pids is not None:
            quality |= truth_scores(found.raw, pids)
    if rows is None:
        rows = pa.table({"row": pa.array(np.arange(n_rows))})
    if "label" in rows.column_names:
        rows = rows.drop_columns("label")
    _write(rows.append_column("label", pa.array(found.labels, pa.int64())), out)
    console = make_console()
    timings = Table("stage", title=f"{n_rows:,} × {features.shape[1]} features, labels.neighbours={config.neighbours}")
    timings.add_column("seconds", justify="right")
    for stage, took in found.seconds.items():
        timings.add_row(stage, f"{took:.2f}")
    timings.add_row("in all", f"{seconds:.2f}", style="bold")
    console.print(timings)
    console.print(
        f"Peak memory: {peak:,.0f} MB beyond the features ({features.nbytes / 2**20:,.0f} MB)", highlight=False
    )
    console.print(_quality_table(quality, found.eps))
    console.print(f"Labels: {out}", highlight=False, soft_wrap=True)


def _sweep(
    features: FloatArray,
    settings: list[Setting],
    camids: IntArray | None,
    pids: IntArray | None,
    device: str | None,
    memory_mb: int,
    out: Location | None,
) -> None:
    import pyarrow as pa

    from reid_ray.labels.sweep import sweep

    memory = _PeakMemory()
    started = time.perf_counter()
    with counting(make_console(stderr=True), "Settings", len(settings)) as bars:
        results = sweep(
            features,
            settings,
            camids,
            pids=pids,
            device=device,
            memory_mb=memory_mb,
            on_setting=lambda _: bars.advance(bars.task_ids[0]),
        )
    seconds = time.perf_counter() - started
    if out is not None:
        _write(pa.Table.from_pylist(results), out)
    console = make_console()
    console.print(_sweep_table(results))
    console.print(
        f"{len(results)} settings in {seconds:.1f} s, {sum(result['seconds'] for result in results):.1f} s of them for "
        f"clustering and scores; peak memory {memory.beyond_start_mb():,.0f} MB beyond the features",
        highlight=False,
    )
    if out is not None:
        console.print(f"Results: {out}", highlight=False, soft_wrap=True)


def _labels_config(overrides: list[str], neighbours: str | None) -> LabelsConfig:
    for override in overrides:
        if not override.startswith("labels."):
            raise ConfigError(f"'{override}' is no setting of labels; write labels.KEY=VALUE.")
    chosen = [] if neighbours is None else [f"labels.neighbours={neighbours}"]
    # The other sections are not read; this one would want a folder of images.
    return load_config("ice", [*overrides, *chosen, "data.layout=synthetic"]).labels


def _check_device(device: str | None) -> None:
    import torch

    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # as PyTorch says that it was built without CUDA
        raise ConfigError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}") from error


def _check_out(out: Location, suffixes: tuple[str, ...]) -> None:
    """Refuse before the work what could not be written after it."""
    if out.suffix not in suffixes:
        raise DataError(f"--out {out} should end in {' or '.join(suffixes)}.")
    if not isinstance(out, Path):
        return
    if not out.parent.is_dir():
        raise DataError(f"The folder of {out} does not exist; create it, or give another --out.")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise DataError(f"{out} cannot be written; give another --out.")


def _open_features(path: Location) -> FloatArray:
    """Features that are read as they are needed; those of a file are copied only where they are not float32."""
    from reid_ray.io.local_copy import local_copy
    from reid_ray.labels.features import open_features

    if path.is_dir():
        from reid_ray.data.feature_folder import read_features

        return read_features(path).flat()
    mapped = open_features(local_copy(path))
    return mapped if mapped.dtype == "float32" else mapped.astype("float32")


def _read_rows(table: Location | None, features: Location, n_rows: int) -> pa.Table | None:
    """The table of rows: that of --table, or the one beside the features, or none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from reid_ray.data.feature_folder import ROWS

    beside = features / ROWS if features.is_dir() else features.with_suffix(".parquet")
    path = table or beside
    if not path.is_file():
        if table is not None:
            raise DataError(f"--table {table} does not exist.")
        return None
    try:
        rows = pq.read_table(as_readable(path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    if rows.num_rows != n_rows:
        raise DataError(f"{path} describes {rows.num_rows} rows and {features} holds {n_rows}; give its own --table.")
    return rows


def _column(rows: pa.Table | None, name: str, n_rows: int) -> IntArray | None:
    """int64 [N] of a column; None where there is no such column, or nothing in it is known."""
    import numpy as np
    import pyarrow as pa

    from reid_ray.types import UNKNOWN

    if rows is None or name not in rows.column_names:
        return None
    column = rows[name]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"The column '{name}' of the table of rows should hold whole numbers, {UNKNOWN} for unknown.")
    values = np.asarray(column.to_numpy(), dtype=np.int64)
    return values if (values != UNKNOWN).any() else None


def _write(table: pa.Table, out: Location) -> None:
    import io

    import pyarrow.csv as pacsv

    from reid_ray.io.files import atomic_write_bytes, parquet_bytes

    if out.suffix == ".parquet":
        atomic_write_bytes(out, parquet_bytes(table))
    else:
        buffer = io.BytesIO()
        pacsv.write_csv(table, buffer)
        atomic_write_bytes(out, buffer.getvalue())


@contextmanager
def _stages(console: Console) -> Iterator[Any]:
    """Gives a function to call with the name of each stage: a spinner, or a line each where there is no terminal."""
    if not console.is_terminal:
        yield lambda stage: console.print(f"{stage} …", highlight=False)
        return
    with console.status("") as status:
        yield lambda stage: status.update(stage)


def _quality_table(quality: dict[str, Any], eps: float | None) -> Table:
    table = Table("labels", title="How they look" + ("" if eps is None else f" (eps {eps:.3g})"))
    table.add_column("", justify="right")
    for name, value in quality.items():
        if name == "sizes":
            value = ", ".join(f"{count} of {size}" for size, count in value.items() if count)
            name = "clusters by size"
        table.add_row(name, _shown(value))
    return table


def _sweep_table(results: list[dict[str, Any]]) -> Table:
    """The settings that differ and their scores; * marks the best of a column."""
    from dataclasses import fields

    from reid_ray.labels.sweep import Setting

    varied = [field.name for field in fields(Setting) if len({result[field.name] for result in results}) > 1] or ["eps"]
    scores = [name for name in (*SWEEP_SCORES, *TRUTH_SCORES) if name in results[0]]
    best = {name: max(result[name] for result in results) for name in scores if name in TO_MAXIMISE}
    table = Table(*varied, title="Sweep", caption=CAPTION)
    for name in scores:
        table.add_column(name, justify="right")
    for result in results:
        cells = [
            Text(f"{_shown(result[name])}*", "bold green") if result[name] == best.get(name) else _shown(result[name])
            for name in scores
        ]
        table.add_row(*(_shown(result[name]) for name in varied), *cells)
    return table


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class _PeakMemory:
    """Peak resident memory of this process, beyond that at the start, when the features have been read."""

    def __init__(self) -> None:
        self._start = self._peak_mb()

    def beyond_start_mb(self) -> float:
        return self._peak_mb() - self._start

    @staticmethod
    def _peak_mb() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MB
