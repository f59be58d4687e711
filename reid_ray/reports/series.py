"""The events of a run, grouped into one row per epoch for curves, report and console.

Events are the lines of metrics.jsonl, in file order. A killed and resumed run may have written an epoch or step twice;
the later line counts. Values that are missing, null or not finite are left out.

Epoch n of a stage (n = 1, 2, …) is the n-th: the labels it trained on (event `refresh` with epoch n−1), its training
(`step` and `epoch` with n−1), and the evaluation after it (`evaluate` with n, as it counts completed epochs). Row 0 of
a stage is the evaluation before its training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

Event: TypeAlias = Mapping[str, Any]


@dataclass
class EpochRow:
    """The events of one epoch; each part is empty until its event is written.

    Attributes:
        stage: name of the stage.
        epoch: number of the epoch in its stage, from 1; 0 is before training.
        position: epoch number over all stages, for plots.
    """

    stage: str
    epoch: int
    position: int = 0
    refresh: Event = field(default_factory=dict)
    training: Event = field(default_factory=dict)
    evaluation: Event = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    @property
    def loss(self) -> float | None:
        """Mean of the epoch's logged losses."""
        return sum(self.losses) / len(self.losses) if self.losses else None

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds of all known parts."""
        known = self.seconds_per_part()
        return sum(known.values()) if known else None

    def seconds_per_part(self) -> dict[str, float]:
        parts = (
            ("extract", number(self.refresh, "extract_seconds")),
            ("label", number(self.refresh, "label_seconds")),
            ("train", number(self.training, "train_seconds")),
            ("evaluate", number(self.evaluation, "evaluate_seconds")),
        )
        return {name: value for name, value in parts if value is not None}


@dataclass(frozen=True)
class Headline:
    """The evaluations of a summary (`evaluate` events or None), and whether the run has ended."""

    start: Event | None
    best: Event | None
    last: Event | None
    ended: bool


def number(event: Event, key: str) -> float | None:
    """The finite number under `key`, or None."""
    value = event.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def steps(events: Iterable[Event]) -> list[Event]:
    """`step` events by global step, each step once."""
    by_step: dict[int, Event] = {}
    for event in events:
        step = number(event, "global_step")
        if event.get("event") == "step" and step is not None:
            by_step[int(step)] = event
    return [by_step[step] for step in sorted(by_step)]


def epoch_rows(events: Sequence[Event]) -> list[EpochRow]:
    """One row per epoch, in order of stages and epochs."""
    rows: dict[tuple[str, int], EpochRow] = {}

    def row_of(event: Event, epoch: int) -> EpochRow:
        key = (str(event.get("stage", "")), epoch)
        return rows.setdefault(key, EpochRow(*key))

    stages = dict.fromkeys(str(event.get("stage", "")) for event in events if "stage" in event)
    for event in events:
        kind, epoch = event.get("event"), number(event, "epoch")
        if epoch is None or kind not in ("refresh", "epoch", "evaluate"):
            continue
        row = row_of(event, int(epoch) + (kind != "evaluate"))
        if kind == "refresh":
            row.refresh = event
        elif kind == "epoch":
            row.training = event
        else:
            row.evaluation = event
    for event in steps(events):
        epoch, loss = number(event, "epoch"), number(event, "loss")
        if epoch is not None and loss is not None:
            row_of(event, int(epoch) + 1).losses.append(loss)
    ordered, before = [], 0
    for stage in stages or {"": None}:
        own = sorted((row for row in rows.values() if row.stage == stage), key=lambda row: row.epoch)
        for row in own:
            row.position = before + row.epoch
        ordered += own
        before += max((row.epoch for row in own), default=0)
    return ordered


def headline(events: Sequence[Event]) -> Headline:
    """The first, best (highest mAP, the earliest of ties) and last evaluation."""
    evaluations = [row.evaluation for row in epoch_rows(events) if number(row.evaluation, "mAP") is not None]
    last_kind = [event.get("event") for event in events if event.get("event") in ("start", "end")][-1:]
    return Headline(
        start=next((event for event in evaluations if number(event, "epoch") == 0), None),
        best=max(evaluations, key=lambda event: number(event, "mAP") or 0, default=None),
        last=evaluations[-1] if evaluations else None,
        ended=last_kind == ["end"],
    )


class EpochTable(NamedTuple):
    """A table of formatted cells.

    Attributes:
        best: index of the row with the best evaluation; None without one.
    """

    headings: list[str]
    rows: list[list[str]]
    best: int | None


def tabulate_epochs(events: Sequence[Event]) -> EpochTable:
    """One row per epoch; empty columns are left out, and the stage column with a single stage."""
    rows, best = epoch_rows(events), headline(events).best
    cells = {heading: [cell(row) for row in rows] for heading, cell in _COLUMNS.items()}
    if len({row.stage for row in rows}) < 2:
        del cells["stage"]
    headings = [heading for heading, column in cells.items() if any(column)]
    best_row = next((i for i, row in enumerate(rows) if best is not None and row.evaluation is best), None)
    return EpochTable(headings, [[cells[heading][i] for heading in headings] for i in range(len(rows))], best_row)


def _formatter(part: str, key: str, form: str, factor: float = 1) -> Callable[[EpochRow], str]:
    def cell(row: EpochRow) -> str:
        value = number(getattr(row, part), key)
        return "" if value is None else form.format(factor * value)

    return cell


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


_COLUMNS: dict[str, Callable[[EpochRow], str]] = {
    "stage": lambda row: row.stage,
    "epoch": lambda row: str(row.epoch) if row.epoch else "start",
    "mAP": _formatter("evaluation", "mAP", "{:.1f}", 100),
    "R1": _formatter("evaluation", "R1", "{:.1f}", 100),
    "R5": _formatter("evaluation", "R5", "{:.1f}", 100),
    "R10": _formatter("evaluation", "R10", "{:.1f}", 100),
    "mINP": _formatter("evaluation", "mINP", "{:.1f}", 100),
    "camera cycles": _formatter("evaluation", "cycle_consistency", "{:.1f}", 100),
    "clusters": _formatter("refresh", "n_clusters", "{:.0f}"),
    "outliers": _formatter("refresh", "outlier_share", "{:.1f}%", 100),
    "label-free": _formatter("refresh", "label_free", "{:.3f}"),
    "cycles": _formatter("refresh", "cycle_consistency", "{:.3f}"),
    "ARI": _formatter("refresh", "ari", "{:.3f}"),
    "NMI": _formatter("refresh", "nmi", "{:.3f}"),
    "F1": _formatter("refresh", "pairwise_f1", "{:.3f}"),
    "loss": lambda row: _optional(row.loss, "{:.3f}"),
    "images/s": _formatter("training", "images_per_second", "{:.0f}"),
    "seconds": lambda row: _optional(row.seconds, "{:.0f}"),
}
