"""State of a run, from the files in its directory, on any machine that can read its storage."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

from reid_ray.config import Config
from reid_ray.methods import stages_of
from reid_ray.training.checkpoint import checkpoint_files
from reid_ray.training.metrics import Event, pauses, read_metrics
from reid_ray.training.rundir import RunDirectory

Phase = Literal["not begun", "running", "silent", "finished"]

PAUSE_SECONDS = 300.0
"""A run that has been quiet for less counts as running: Ray or a trainer may be starting."""

PAUSES = 3.0
"""A run that has been quiet for longer than this many times its longest pause so far is assumed dead."""


@dataclass(frozen=True)
class RunState:
    """State of a run as recorded in its directory.

    Attributes:
        phase: `finished`: trained for all its epochs; `running`: it has written recently; `silent`: it has been quiet
            for longer than its pauses so far explain, so it was stopped, was killed, or hangs; `not begun`: it has
            logged nothing.
        stage: name of the current stage.
        epochs: epochs of the stage.
        epoch: completed epochs of the stage.
        step: completed steps of the next epoch.
        iterations: steps per epoch; None if an epoch is one pass and none has been logged yet.
        checkpoint: file name of the newest checkpoint, from which the same command resumes.
        quiet_seconds: since its last line; None if it has written none.
        usual_seconds: its longest pause so far between two lines of one process.
        events: the last line of each kind.
        diverged: whether it stopped because a loss was not finite.
    """

    phase: Phase
    stage: str
    epochs: int
    epoch: int
    step: int
    iterations: int | None
    checkpoint: str | None
    quiet_seconds: float | None
    usual_seconds: float
    events: dict[str, Event]
    diverged: bool

    @classmethod
    def of(cls, directory: RunDirectory, config: Config, now: float | None = None) -> RunState:
        """Read the state; `now` is in seconds since 1970, None for this machine's clock."""
        events = read_metrics(directory.metrics_file)
        pause = max(pauses(events), default=0.0)
        quiet = max(0.0, (time.time() if now is None else now) - events[-1]["time"]) if events else None
        finished = directory.is_complete(config)
        epoch, step = _position(events)
        checkpoints = checkpoint_files(directory.checkpoints)
        last = {event["event"]: event for event in events}
        stages = {stage.name: stage for stage in stages_of(config)}
        stage = stages[last["start"]["stage"]] if "start" in last else next(iter(stages.values()))
        return cls(
            phase=_phase(finished, quiet, pause),
            stage=stage.name,
            epochs=stage.config.epochs,
            epoch=stage.config.epochs if finished else epoch,
            step=0 if finished else step,
            iterations=stage.config.iterations or last.get("step", {}).get("n_steps"),
            checkpoint=checkpoints[0].name if checkpoints else None,
            quiet_seconds=quiet,
            usual_seconds=pause,
            events=last,
            diverged=directory.diverged_file(0).exists(),
        )

    def as_dict(self) -> dict[str, Any]:
        """The state as plain values, for scripts."""
        return dict(vars(self))


def _phase(finished: bool, quiet: float | None, pause: float) -> Phase:
    if finished:
        return "finished"
    if quiet is None:
        return "not begun"
    return "running" if quiet <= max(PAUSE_SECONDS, PAUSES * pause) else "silent"


def _position(events: list[Event]) -> tuple[int, int]:
    """Completed epochs, and steps of the next one. Evaluations are ignored, because they may be logged late."""
    for event in reversed(events):
        kind = event["event"]
        if kind in ("step", "start"):
            return event["epoch"], event["step"]
        if kind == "epoch":
            return event["epoch"] + 1, 0
        if kind == "refresh":
            return event["epoch"], 0
    return 0, 0
