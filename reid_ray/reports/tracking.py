"""A run's events as points of curves, for programs that draw them, and how what they have is kept equal to the log.

metrics.jsonl is the truth about a run. A tracker is given what it lacks, at each look; where it holds a point that the
log holds no more, since a resumed run cut its log back, it begins anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from reid_ray.config import Config, config_hash
from reid_ray.config.loading import leaves
from reid_ray.reports.series import Event
from reid_ray.run import Run

Setting: TypeAlias = bool | int | float | str

_POSITION_KEYS = ("event", "time", "stage", "epoch", "step", "n_steps", "global_step")
_TRACKED = ("refresh", "step", "epoch", "evaluate")


class Point(NamedTuple):
    """A number of the log.

    Attributes:
        tag: EVENT/FIELD, as in step/loss and step/parts/hard; in all trackers the curve's name.
        step: steps of training that were completed then, the x axis of every curve.
        milliseconds: when it was logged, since 1970.
        value: finite.
    """

    tag: str
    step: int
    milliseconds: int
    value: float


@dataclass(frozen=True)
class Subject:
    """What a tracker is told of a run besides its points.

    Attributes:
        identity: the same wherever the run is copied, mounted or moved to, and of no other run: the hash of its
            configuration and when it began.
        name: its name.
        path: where it lies.
        began: milliseconds since 1970.
        ended: of its last event, where the run is finished.
        settings: its configuration, by dotted key.
    """

    identity: str
    name: str
    path: str
    began: int
    ended: int | None
    settings: dict[str, Setting]


class Tracker(Protocol):
    """A program that draws curves, and holds those of one run."""

    @property
    def where(self) -> str:
        """Where somebody should look."""
        ...

    def show(self, subject: Subject, points: Sequence[Point]) -> None:
        """Hold these points and no others, whatever it held before, in this process or in one that was killed."""
        ...


@dataclass
class Feed:
    """A run and what shows it.

    Attributes:
        n_points: that the tracker holds.
        finished: whether the run has been trained for all its epochs, and all of it handed over.
    """

    run: Run
    tracker: Tracker
    n_points: int = field(default=0, init=False)
    finished: bool = field(default=False, init=False)

    def look(self) -> None:
        """Hand over what is new. A run that has logged nothing is not shown yet."""
        finished = self.run.directory.is_complete(self.run.config)  # before reading: nothing comes after the end
        events = self.run.metrics()
        if not events:
            return
        found = points(events)
        self.tracker.show(subject(self.run, events, finished), found)
        self.n_points, self.finished = len(found), finished


def points(events: Sequence[Event]) -> list[Point]:
    """Every finite number of the events `refresh`, `step`, `epoch` and `evaluate`, in the order of the log.

    Labels stand at the step before which they were made, what is told of an epoch at its last one, an evaluation at
    the steps that its model has been trained for. True is 1. Of a number that stands twice for a step the later counts.

    Args:
        events: lines of metrics.jsonl.
    """
    found: dict[tuple[str, int], Point] = {}
    for event in events:
        kind = event["event"]
        if kind not in _TRACKED:
            continue
        step, milliseconds = int(event["global_step"]), _milliseconds(event)
        fields = {key: value for key, value in event.items() if key not in _POSITION_KEYS}
        for tag, value in _numbers(kind, fields):
            found[tag, step] = Point(tag, step, milliseconds, value)
    return list(found.values())


def missing(points: Sequence[Point], known: Collection[Point]) -> list[Point] | None:
    """The points that a tracker lacks; None where it knows one that is none of them."""
    if not set(known) <= set(points):
        return None
    return [point for point in points if point not in known]


def settings(config: Config) -> dict[str, Setting]:
    """The resolved configuration by dotted key; what is no number and no text as JSON."""
    found = leaves(config.model_dump(mode="json"))
    return {key: value if isinstance(value, bool | int | float | str) else json.dumps(value) for key, value in found}


def subject(run: Run, events: Sequence[Event], finished: bool) -> Subject:
    """What a run with these events, one or more, is to trackers."""
    began = _milliseconds(events[0])
    return Subject(
        identity=f"{config_hash(run.config)}-{began}",
        name=run.config.name,
        path=str(run.path),
        began=began,
        ended=_milliseconds(events[-1]) if finished else None,
        settings=settings(run.config),
    )


def _milliseconds(event: Event) -> int:
    milliseconds: int = round(1000 * event["time"])
    return milliseconds


def _numbers(tag: str, value: Any) -> Iterator[tuple[str, float]]:
    """The finite numbers in a value, with a tag that all trackers take: MLflow knows no +, as in the size 129+."""
    if isinstance(value, int | float):
        if math.isfinite(value):
            yield tag.replace("+", " or more"), float(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{tag}/{key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _numbers(f"{tag}/{number}", inner)
