"""The report of a search: plots, tables of trials and the request, in one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from reid_ray.io.paths import Location
from reid_ray.reports.page import grid, header, picture, write_page
from reid_ray.tuning.pictures import draw_search
from reid_ray.tuning.results import Repeated, Results, read_results, score_names, table_rows
from reid_ray.tuning.study import best_first, pareto_front


def report_search(path: Path) -> Location:
    """Draw the plots of a search and write report.html, also for an unfinished search."""
    results = read_results(path.expanduser().resolve())
    folder = results.directory.path
    body = [
        header(folder.name, finished=results.directory.best.exists()),
        *_repeats_table("Winner and recipe on the test split", results.final),
        *_repeats_table("Best trials with more seeds", results.repeats),
        *_front(results),
        *(picture(heading, file) for heading, file in draw_search(results, folder).items()),
        _trials(results),
        f"<section><h2>Search</h2><pre>{escape(_request_text(results))}</pre></section>",
    ]
    return write_page(folder, body)


def _trials(results: Results) -> str:
    rows = table_rows(results)
    if not rows:
        return '<section><h2>Trials</h2><p class="note">No trial has started yet.</p></section>'
    best = {row.id for row in best_first(results.rows)[:1]}
    headings = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)]
    cells = [[shown(row[name]) for name in headings] for row in rows]
    marked = [row["stage"] == "search" and row["id"] in best for row in rows]
    note = f"By {' and '.join(results.request.objectives)}. Each trial is a run in the folder trials, by its id."
    return grid("Trials", note, headings, cells, marked)


def _repeats_table(heading: str, points: Sequence[Repeated]) -> list[str]:
    """A table of points with several seeds; empty without points."""
    if not points:
        return []
    keys = list(points[0].values)
    cells = [
        [
            shown(point.mean),
            ", ".join(shown(score) for score in point.scores.values()),
            *map(shown, point.values.values()),
        ]
        for point in points
    ]
    note = "Mean over new seeds, and the score of each seed."
    return [grid(heading, note, ["mean", "by seed", *keys], cells, [i == 0 for i in range(len(points))])]


def _front(results: Results) -> list[str]:
    if len(results.request.objectives) == 1:
        return []
    front = pareto_front(results.rows)
    names = score_names(results.request, "search")
    cells = [[row.id, *map(shown, row.scores), *map(shown, row.point.values())] for row in front]
    keys = list(front[0].point) if front else []
    note = "No other trial is better in one objective without being worse in the other."
    return [grid("Pareto front", note, ["id", *names, *keys], cells, [False] * len(front))]


def _request_text(results: Results) -> str:
    return results.directory.request_file.read_text(encoding="utf-8").strip()


def shown(value: Any) -> str:
    """Format a value for a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
