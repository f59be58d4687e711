"""Progress of a run: bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import TimeRemainingColumn as Remaining

from reid_ray.training.metrics import Event

if TYPE_CHECKING:
    from reid_ray.data.images import Dataset
    from reid_ray.data.table import ImageTable
    from reid_ray.run import Run
    from reid_ray.types import FloatArray

STEP_LINE_SECONDS = 15.0
"""Minimum time between step lines without a terminal; other events are always printed."""

NO_TERMINAL_WIDTH = 140


class RunProgress:
    """Shows the events of a run; use as a context manager and as the `listener` of a run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage: Event = {}
        self._bars: Progress | None = None
        self._last_line = 0.0
        if console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                Remaining(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._task = self._bars.add_task("starting", total=None, note="")

    def __enter__(self) -> RunProgress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self._bars:
            self._move(event)
        if event["event"] != "step" or self._step_line_is_due():
            self._console.print(describe(event), highlight=False, markup=False, soft_wrap=True)

    def _step_line_is_due(self) -> bool:
        due = self._bars is None and time.monotonic() - self._last_line > STEP_LINE_SECONDS
        if due:
            self._last_line = time.monotonic()
        return due

    def _move(self, event: Event) -> None:
        """Update the bar, which covers one stage of the run."""
        assert self._bars is not None
        kind = event["event"]
        if kind == "start":
            self._stage, iterations = event, event["iterations"]
            total = event["epochs"] * iterations if iterations else None
            self._bars.update(self._task, description="refreshing labels", total=total)
        elif kind == "step":
            total, done = self._stage["epochs"] * event["n_steps"], event["epoch"] * event["n_steps"] + event["step"]
            note = f"loss {_number(event['loss'])}"
            self._bars.update(self._task, description=self._place(event), total=total, completed=done, note=note)
        elif kind == "refresh":
            self._bars.update(self._task, description=self._place(event), note="")
        elif kind in ("epoch", "evaluate"):
            waiting = "refreshing labels" if kind == "evaluate" else "evaluating"
            self._bars.update(self._task, description=waiting)

    def _place(self, event: Event) -> str:
        return f"{event['stage']}, epoch {event['epoch'] + 1}/{self._stage['epochs']}"


QUALITIES = (
    ("label_free", "label-free"),
    ("cycle_consistency", "cycles"),
    ("ari", "ARI"),
    ("nmi", "NMI"),
    ("pairwise_f1", "F1"),
)
"""Fields of a `refresh` event that are printed, and their names."""


def describe(event: Event) -> str:
    """Describe an event in one line."""
    kind = event["event"]
    if kind == "start":
        return (
            f"start     stage {event['stage']}: {event['n_images']} images, workers: {event['n_workers']} on "
            f"{event['device']} in {event['precision']}, ready after {event['startup_seconds']:.1f} s"
            + (f", resuming at epoch {event['epoch'] + 1}, step {event['step']}" if _resumed(event) else "")
        )
    if kind == "refresh":
        quality = "".join(f", {label} {event[key]:.3f}" for key, label in QUALITIES if event.get(key) is not None)
        seconds = ", ".join(
            f"{event[key]:.1f} s {what}"
            for key, what in (("extract_seconds", "extraction"), ("label_seconds", "labelling"))
            if event.get(key) is not None
        )
        return (
            f"labels    epoch {event['epoch'] + 1}: {event['n_clusters']} clusters, {event['n_outliers']} outliers"
            f"{quality}{f' ({seconds})' if seconds else ''}"
            f"{'  [degenerate: previous labels kept]' if event['degenerate'] else ''}"
        )
    if kind == "step":
        return f"step      epoch {event['epoch'] + 1}, step {event['step']}: loss {_number(event['loss'])}"
    if kind == "epoch":
        return (
            f"trained   epoch {event['epoch'] + 1} in {event['train_seconds']:.1f} s "
            f"({event['images_per_second']:.0f} images/s)"
        )
    if kind == "evaluate":
        return f"evaluated after epoch {event['epoch']}: {metrics_text(event)} ({event['evaluate_seconds']:.1f} s)"
    if kind == "end":
        return f"end       {event['epochs']} epochs, {event['seconds']:.0f} s"
    return str(kind)


def metrics_text(event: Event) -> str:
    """The main metrics of an `evaluate` event."""
    names = {"mAP": "mAP", "R1": "R1", "cycle_consistency": "cycle consistency"}
    return ", ".join(f"{name} {event[key]:.1%}" for key, name in names.items() if key in event)


def make_console(*, stderr: bool = False) -> Console:
    """A console; where there is no terminal to ask for its width, tables get enough of it.

    Text is printed as it is: names of files, runs and columns may hold [brackets], which Rich would take for markup.
    """
    console = Console(stderr=stderr, markup=False)
    return console if console.is_terminal else Console(stderr=stderr, markup=False, width=NO_TERMINAL_WIDTH)


@contextmanager
def counting(console: Console, description: str, total: int) -> Iterator[Progress]:
    """A progress bar for work of known length (advance task 0); silent without a terminal."""
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Remaining(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bars:
        bars.add_task(description, total=total)
        yield bars


def embed_with_progress(
    run: Run, table: ImageTable, dataset: Dataset, console: Console, *, attributes: bool = False
) -> FloatArray:
    """`Run.embed_table` with a progress bar."""
    with counting(console, f"Extracting {table.name}", len(table)) as bars:
        return run.embed_table(
            table, dataset, attributes=attributes, on_batch=lambda n: bars.advance(bars.task_ids[0], n)
        )


def _resumed(event: Event) -> bool:
    return bool(event["epoch"] or event["step"])


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"
