"""`reid-ray label`: pseudo-labels for a feature file, or a table of scores for many settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reid_ray.cli.progress import counting, make_console
from reid_ray.config import LabelsConfig, load_config
from reid_ray.errors import ConfigError

# The label engine imports PyTorch, so import it where it is used: --help should not wait for it.
if TYPE_CHECKING:
    from reid_ray.labelling import LabelReport, SweepReport

app = typer.Typer()

TO_MAXIMISE = ("label_free", "silhouette", "camera_mix", "ari", "nmi", "pairwise_f1")
"""Scores of a sweep whose maximum is marked. The first three need no identities."""

SWEEP_SCORES = ("n_clusters", "n_outliers", "size_max", "label_free", "silhouette", "camera_entropy", "camera_mix")
CAPTION = "* best of the column. Without identities, choose by label_free."

GROUND_TRUTH_SCORES = ("ari", "nmi", "pairwise_precision", "pairwise_recall", "pairwise_f1")


@app.command(
    epilog="Examples:  reid-ray label features.npy --out labels.parquet labels.eps=0.5   |   "
    "reid-ray label features.npy --sweep eps=.4:.7:.05 --sweep k1=20,30 --out sweep.csv"
)
def label(
    features: Annotated[
        str,
        typer.Argument(
            metavar="FEATURES", help="L2-normalised features [N, D] from 'reid-ray extract': a .npy file or a folder."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[labels.KEY=VALUE]...", help="Settings to override (docs/configuration.md lists all)."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", help="Output file: labels as .parquet; with --sweep the scores as .parquet or .csv."
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="Parquet file with a row per feature. Default: the one next to FEATURES.npy, or in the folder."
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=START:STOP:STEP|A,B,…",
            help="Score these values instead of writing labels; repeat --sweep for a grid. One neighbour search.",
        ),
    ] = None,
    ask: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Also write the N pairs of images whose comparison would correct most labels, to "
            "OUT-questions.csv. Fill in the column 'verdict' (same, different or junk) and pass the file as "
            "labels.constraints.",
        ),
    ] = 0,
    gallery: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Also write a page that shows the clusters and takes corrections: FOLDER/index.html."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device of the neighbour search, such as cpu or cuda:0. Default: CUDA if available."),
    ] = None,
    neighbours: Annotated[
        Literal["exact", "ivf", "hnsw"] | None,
        typer.Option(help="Exact search, or approximate search by faiss. Same as labels.neighbours."),
    ] = None,
) -> None:
    """Cluster features into pseudo-labels; print timings, peak memory and label quality."""
    from reid_ray.labelling import label_features, sweep_features
    from reid_ray.labels.sweep import Setting, parse_grid

    config = _labels_config(overrides or [], neighbours)
    if sweep:
        if ask or gallery:
            raise ConfigError("--ask and --gallery are about one labelling; remove --sweep.")
        settings = parse_grid(sweep, Setting.of(config))
        with counting(make_console(stderr=True), "Settings", len(settings)) as bars:
            results = sweep_features(
                features,
                settings,
                out,
                table=table,
                device=device,
                memory_mb=config.memory_mb,
                on_setting=lambda _: bars.advance(bars.task_ids[0]),
            )
        _print_sweep(results, out)
        return
    if out is None:
        raise ConfigError("No output file; add --out labels.parquet.")
    with _stages(make_console(stderr=True)) as on_stage:
        report = label_features(
            features, out, config, table=table, device=device, on_stage=on_stage, ask=ask, gallery=gallery
        )
    _print_labels(report, config, out, gallery)


def _labels_config(overrides: list[str], neighbours: str | None) -> LabelsConfig:
    for override in overrides:
        if not override.startswith("labels."):
            raise ConfigError(f"'{override}' is not a setting of labels; write labels.KEY=VALUE.")
    chosen = [] if neighbours is None else [f"labels.neighbours={neighbours}"]
    # Only the section `labels` is used; data.layout=synthetic spares the others a folder of images.
    config = load_config("ice", [*overrides, *chosen, "data.layout=synthetic"]).labels
    if config.unit == "tracklet":
        raise ConfigError("labels.unit=tracklet is a setting of training; 'label' clusters rows of features.")
    return config


@contextmanager
def _stages(console: Console) -> Iterator[Callable[[str], None]]:
    """A function to call with the name of each stage: updates a spinner, or prints a line without a terminal."""
    if not console.is_terminal:
        yield lambda stage: console.print(f"{stage} …", highlight=False)
        return
    with console.status("") as status:
        yield lambda stage: status.update(stage)


def _print_labels(report: LabelReport, config: LabelsConfig, out: str, gallery: str | None) -> None:
    n_rows, dim = report.shape
    console = make_console()
    timings = Table("stage", title=f"{n_rows:,} × {dim} features, labels.neighbours={config.neighbours}")
    timings.add_column("seconds", justify="right")
    for stage, seconds in report.result.seconds.items():
        timings.add_row(stage, f"{seconds:.2f}")
    timings.add_row("total", f"{report.seconds:.2f}", style="bold")
    console.print(timings)
    console.print(
        f"Peak memory: {report.peak_mb:,.0f} MB in addition to the features ({n_rows * dim * 4 / 2**20:,.0f} MB)",
        highlight=False,
    )
    console.print(_quality_table(report.quality, report.result.eps))
    console.print(f"Labels: {out}", highlight=False, soft_wrap=True)
    if gallery is not None:
        console.print(f"Gallery: {gallery}/index.html", highlight=False, soft_wrap=True, markup=False)
    if report.questions:
        from reid_ray.io.paths import as_path
        from reid_ray.labelling import questions_file

        file = questions_file(as_path(out))
        console.print(f"{len(report.questions)} questions: {file}", highlight=False, soft_wrap=True, markup=False)


def _print_sweep(report: SweepReport, out: str | None) -> None:
    console = make_console()
    console.print(_sweep_table(report.results))
    console.print(advice(report.results), highlight=False, soft_wrap=True)
    console.print(
        f"{len(report.results)} settings in {report.seconds:.1f} s, "
        f"{sum(result['seconds'] for result in report.results):.1f} s of which for clustering and scores; "
        f"peak memory {report.peak_mb:,.0f} MB in addition to the features",
        highlight=False,
    )
    if out is not None:
        console.print(f"Results: {out}", highlight=False, soft_wrap=True)


def advice(results: list[dict[str, Any]]) -> str:
    """What to choose without identities, if the scores tell."""
    from reid_ray.labels.objective import separates

    if not separates([result["label_free"] for result in results]):
        return "The scores do not separate these settings: keep the recipe's."
    best = max(results, key=lambda result: result["label_free"])
    varied = ", ".join(f"{name}={_format(best[name])}" for name in _varied(results))
    return f"By label_free: {varied}"


def _varied(results: list[dict[str, Any]]) -> list[str]:
    """Names of the settings that vary."""
    from dataclasses import fields

    from reid_ray.labels.sweep import Setting

    return [field.name for field in fields(Setting) if len({result[field.name] for result in results}) > 1] or ["eps"]


def _quality_table(quality: dict[str, Any], eps: float | None) -> Table:
    table = Table("labels", title="Label quality" + ("" if eps is None else f" (eps {eps:.3g})"))
    table.add_column("", justify="right")
    for name, value in quality.items():
        if name == "sizes":
            value = ", ".join(f"{count} of {size}" for size, count in value.items() if count)
            name = "clusters by size"
        table.add_row(name, _format(value))
    return table


def _sweep_table(results: list[dict[str, Any]]) -> Table:
    """The settings that vary and their scores; * marks the best of a column."""
    varied = _varied(results)
    scores = [name for name in (*SWEEP_SCORES, *GROUND_TRUTH_SCORES) if name in results[0]]
    best = {name: max(result[name] for result in results) for name in scores if name in TO_MAXIMISE}
    table = Table(*varied, title="Sweep", caption=CAPTION)
    for name in scores:
        table.add_column(name, justify="right")
    for result in results:
        cells = [
            Text(f"{_format(result[name])}*", "bold green") if result[name] == best.get(name) else _format(result[name])
            for name in scores
        ]
        table.add_row(*(_format(result[name]) for name in varied), *cells)
    return table


def _format(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
