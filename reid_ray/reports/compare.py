"""Several runs on one page: settings that differ, results, curves over each other, the same queries side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reid_ray.config.loading import leaves
from reid_ray.errors import UserError
from reid_ray.io.paths import Location
from reid_ray.reports.curves import Panel, Points, draw_panels
from reid_ray.reports.page import grid, header, note, picture, write_page
from reid_ray.reports.ranked_rows import HOW, ranked_run, ranked_style, same_queries
from reid_ray.reports.series import EpochRow, epoch_rows, headline, number
from reid_ray.run import Run

COMPARISON_NAME = "comparison.html"
NOT_SETTINGS = ("name", "output")

CURVES: dict[str, Callable[[EpochRow], float | None]] = {
    "mAP, %": lambda row: _percent(number(row.evaluation, "mAP")),
    "R1, %": lambda row: _percent(number(row.evaluation, "R1")),
    "loss": lambda row: row.loss,
    "clusters": lambda row: number(row.refresh, "n_clusters"),
    "outliers, %": lambda row: _percent(number(row.refresh, "outlier_share")),
    "silhouette": lambda row: number(row.refresh, "silhouette"),
    "ARI": lambda row: number(row.refresh, "ari"),
    "pairwise F1": lambda row: number(row.refresh, "pairwise_f1"),
    "seconds per epoch": lambda row: row.seconds,
}
"""Panels of the comparison: title and value of an epoch."""


def compare_runs(runs: Sequence[Run], folder: Location) -> Location:
    """Write `comparison.html` and `comparison.png` into a folder; the runs may be unfinished.

    Returns:
        The path of the page.
    """
    names = run_names(runs)
    curves = folder / "comparison.png"
    rows = {name: epoch_rows(run.metrics()) for name, run in zip(names, runs, strict=True)}
    panels = []
    for title, value in CURVES.items():
        series = {name: _points(found, value) for name, found in rows.items()}
        panels.append(Panel(title, "epoch", series, from_zero=title != "silhouette"))
    draw_panels(panels, curves)
    differing = different_settings(runs)
    settings = grid(
        "Settings that differ",
        f"{len(differing)} settings.",
        ["", *names],
        [[key, *values] for key, values in differing.items()],
        [False] * len(differing),
    )
    body = [
        header(" · ".join(names), finished=all(run.finished for run in runs)),
        _results(runs, names),
        settings,
        picture("Curves", curves),
        _same_queries(runs, names),
    ]
    return write_page(folder, body, name=COMPARISON_NAME, title="Comparison of runs", style=ranked_style())


def run_names(runs: Sequence[Run]) -> list[str]:
    """The names of the run directories, with as many folders above them as make them unique."""
    parts = [list(run.path.parts) for run in runs]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-n:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]


def different_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Dotted key → value in each run, of settings that are not the same in all; a dash where a run has no such key."""
    found = [dict(leaves(run.config.model_dump(mode="json"))) for run in runs]
    keys = sorted({key for each in found for key in each if key not in NOT_SETTINGS})
    values = {key: [str(each[key]) if key in each else "–" for each in found] for key in keys}
    return {key: shown for key, shown in values.items() if len(set(shown)) > 1}


def _results(runs: Sequence[Run], names: Sequence[str]) -> str:
    rows, best = [], []
    for name, run in zip(names, runs, strict=True):
        summary = headline(run.metrics())
        cells = [
            f"{100 * value:.1f}" if event is not None and (value := number(event, key)) is not None else ""
            for event in (summary.best, summary.last)
            for key in ("mAP", "R1")
        ]
        rows.append([name, "finished" if summary.ended else "in progress", *cells])
        best.append((number(summary.best, "mAP") or 0) if summary.best else 0)
    marked = [bool(value) and value == max(best) for value in best]
    headings = ["run", "", "best mAP", "R1 there", "last mAP", "last R1"]
    return grid("Results", "In %, on query and gallery of each run. Marked: the best mAP.", headings, rows, marked)


def _same_queries(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The same queries in all runs that have rankings; a note where none has."""
    try:
        found = [ranked_run(run, name) for name, run in zip(names, runs, strict=True)]
    except UserError as error:
        return note("The same queries", f"They cannot be shown: {error}")
    ranked = [each for each in found if each is not None]
    if not ranked:
        return note("The same queries", f"No run has been ranked yet: '{HOW}' ranks.")
    return same_queries(ranked, [name for name, each in zip(names, found, strict=True) if each is None])


def _points(rows: Sequence[EpochRow], value: Callable[[EpochRow], float | None]) -> Points:
    return [(row.position, found) for row in rows if (found := value(row)) is not None]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
