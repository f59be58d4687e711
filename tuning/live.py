"""Progress of a search: a live table on a terminal, and a line for each finished trial."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reid_ray.training.metrics import read_metrics
from reid_ray.training.rundir import RunDirectory
from reid_ray.tuning.request import METRICS
from reid_ray.tuning.search import View
from reid_ray.tuning.spaces import Values
from reid_ray.tuning.study import Row, best_first, read_rows

POLL_SECONDS = 1.0


class Board:
    """Shows the stages of a search; use as the `watch` of `search`."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def __call__(self, view: View) -> Iterator[None]:
        known = {row.number for row in _rows(view) if row.state != "running"}
        self._console.print(_opening(view, len(known)), highlight=False, soft_wrap=True)
        ended = threading.Event()
        live = Live(console=self._console, transient=True, auto_refresh=False)

        def update() -> None:
            rows = _rows(view)
            for row in rows:
                if row.state != "running" and row.number not in known:
                    known.add(row.number)
                    self._console.print(
                        line_of(row, view, rows, len(known)), highlight=False, markup=False, soft_wrap=True
                    )
            if self._console.is_terminal:
                live.update(_running_trials(view, rows), refresh=True)

        def poll() -> None:
            while not ended.wait(POLL_SECONDS):
                update()

        thread = threading.Thread(target=poll, name="reid-search", daemon=True)
        if self._console.is_terminal:
            live.start()
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            update()
            if self._console.is_terminal:
                live.stop()


def line_of(row: Row, view: View, rows: list[Row], n_ended: int) -> str:
    """One line about a finished trial."""
    of = "" if view.n_trials is None else f"/{view.n_trials}"
    result = _scores(row, view) if row.ranked else f"{row.state}: {row.reason}"
    if row.state == "stopped":
        result += " (stopped)"
    best = best_first(rows)
    if best and best[0].number == row.number and len(best) > 1:
        result += ", best so far"
    seconds = f"{row.measures['seconds']:.0f} s, " if "seconds" in row.measures else ""
    return f"trial {n_ended}{of}  {row.id}  {result}  [{seconds}{shown(row.point)}]"


def shown(values: Values) -> str:
    """Values on one line, with the last part of their keys."""
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())


def _rows(view: View) -> list[Row]:
    return read_rows(view.study, view.stage.base.seed)


def _scores(row: Row, view: View) -> str:
    return ", ".join(
        f"{METRICS[objective]} {score:.4f}" for objective, score in zip(view.stage.objectives, row.scores, strict=True)
    )


def _opening(view: View, n_before: int) -> str:
    stage, capacity = view.stage, view.capacity
    n_trials = "trials" if view.n_trials is None else f"{view.n_trials} trials"
    before = f", {n_before} of them from before" if n_before else ""
    return f"{stage.name.partition('-')[0]}: {n_trials}{before}, {capacity.concurrent} at a time on {capacity.device}"


def _running_trials(view: View, rows: list[Row]) -> Group:
    """Running trials, and the best finished one."""
    table = Table("run", "epoch", "now", "values", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        if row.state == "running":
            table.add_row(row.id, *_progress(view.stage.folder / row.id, view), shown(row.values))
    n_ended = sum(row.state != "running" for row in rows)
    of = "" if view.n_trials is None else f" of {view.n_trials}"
    best = best_first(rows)[:1]
    lines = [Text(f"{n_ended}{of} trials")]
    lines += [Text(f"best {_scores(row, view)}  {row.id}  {shown(row.point)}", style="green") for row in best]
    return Group(table, *lines)


def _progress(run: Path, view: View) -> tuple[str, str]:
    """Epoch and current activity, from the log of a run."""
    events = read_metrics(RunDirectory(run).metrics_file)
    if not events:
        return "", "starting"
    last = events[-1]
    done = sum(event["event"] == "epoch" for event in events)
    now = {
        "start": "labels",
        "refresh": "training",
        "step": f"step {last.get('step')}",
        "epoch": "evaluating or labels",
        "evaluate": "labels",
        "end": "scoring",
    }[last["event"]]
    return f"{min(done + 1, view.stage.base.training.epochs)}/{view.stage.base.training.epochs}", now
