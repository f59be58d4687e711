"""Export the events of a run as points of curves to trackers, and keep these in sync with the log.

metrics.jsonl is authoritative. Each update sends a tracker the points that it lacks. If it holds a point that is no
longer in the log, because a resumed run truncated its log, it starts again.
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
    """A value of the log.

    Attributes:
        tag: EVENT/FIELD, such as step/loss and step/terms/hard; the name of the curve in all trackers.
        step: number of completed training steps, the x axis of every curve.
        milliseconds: time of logging, since 1970.
        value: finite.
    """

    tag: str
    step: int
    milliseconds: int
    value: float


@dataclass(frozen=True)
class Subject:
    """Metadata of a run for a tracker.

    Attributes:
        identity: unique to the run and independent of its location: the hash of its configuration and its start time.
        name: its name.
        path: its location.
        started: milliseconds since 1970.
        ended: time of its last event, if the run is finished.
        settings: its configuration, by dotted key.
    """

    identity: str
    name: str
    path: str
    started: int
    ended: int | None
    settings: dict[str, Setting]


class Tracker(Protocol):
    """Holds the curves of one run in an external program."""

    @property
    def where(self) -> str:
        """Location of the curves, for messages."""
        ...

    def show(self, subject: Subject, points: Sequence[Point]) -> None:
        """Make the tracker hold exactly these points, whatever it held before, also after a killed process."""
        ...


@dataclass
class Feed:
    """A run and its tracker.

    Attributes:
        n_points: number of points that the tracker holds.
        finished: whether the run has finished and all its points are exported.
    """

    run: Run
    tracker: Tracker
    n_points: int = field(default=0, init=False)
    finished: bool = field(default=False, init=False)

    def update(self) -> None:
        """Export new points. A run without events is not exported yet."""
        finished = self.run.directory.is_complete(
            self.run.config
        )  # checked before reading: nothing is logged after the end
        events = self.run.metrics()
        if not events:
            return
        found = points(events)
        self.tracker.show(subject(self.run, events, finished), found)
        self.n_points, self.finished = len(found), finished


def points(events: Sequence[Event]) -> list[Point]:
    """Every finite number of the events `refresh`, `step`, `epoch` and `evaluate`, in the order of the log.

    The x position of labels is the step before which they were computed, that of an epoch its last step, that of an
    evaluation the number of steps of its model. True is 1. If a value is logged twice for a step, the later counts.

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
    """The points that a tracker lacks; None if it holds a point that is not among `points`."""
    if not set(known) <= set(points):
        return None
    return [point for point in points if point not in known]


def settings(config: Config) -> dict[str, Setting]:
    """The resolved configuration by dotted key; values other than numbers and strings as JSON."""
    found = leaves(config.model_dump(mode="json"))
    return {key: value if isinstance(value, bool | int | float | str) else json.dumps(value) for key, value in found}


def subject(run: Run, events: Sequence[Event], finished: bool) -> Subject:
    """The metadata of a run with at least one event."""
    started = _milliseconds(events[0])
    return Subject(
        identity=f"{config_hash(run.config)}-{started}",
        name=run.config.name,
        path=str(run.path),
        started=started,
        ended=_milliseconds(events[-1]) if finished else None,
        settings=settings(run.config),
    )


def _milliseconds(event: Event) -> int:
    milliseconds: int = round(1000 * event["time"])
    return milliseconds


def _numbers(tag: str, value: Any) -> Iterator[tuple[str, float]]:
    """The finite numbers in a value, with tags that all trackers accept: MLflow rejects +, as in the size 129+."""
    if isinstance(value, int | float):
        if math.isfinite(value):
            yield tag.replace("+", " or more"), float(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{tag}/{key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _numbers(f"{tag}/{number}", inner)
