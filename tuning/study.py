"""The study of a search: Optuna's journal is the authoritative record of its trials and survives crashes.

Only one process works on a search. So trials that the journal lists as running when a process starts were interrupted;
they are requeued, and their runs resume.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import optuna
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from reid_ray.tuning.phases import Phase, run_id
from reid_ray.tuning.request import Objective
from reid_ray.tuning.spaces import Values, rounded

State: TypeAlias = Literal["running", "complete", "stopped", "degenerate", "diverged", "failed", "interrupted"]
"""State of a trial.

`complete`: trained to the end. `stopped`: stopped early, scored by its last evaluation. `degenerate`, `diverged`:
training failed because of the values, scored as the worst value. `failed`: an error unrelated to the values.
`interrupted`: the search ended first; the trial is requeued.
"""

SCORED: tuple[State, ...] = ("complete", "stopped")
"""States in which the score measures the values."""

WAITING, FIXED = TrialState.WAITING, "fixed_params"
"""Optuna's state of a queued trial, and the attribute that holds its values."""

STARTUP_SHARE, STARTUP_TRIALS = 3, (4, 10)
"""Random startup trials of TPE: a third of all trials, at least 4 and at most 10."""


@dataclass(frozen=True)
class Outcome:
    """State and score of a trial, as recorded in the study.

    Attributes:
        quality: score of the first objective, higher is better; 0 without a score.
        reason: a one-line message if the trial did not complete.
        measures: other metrics of the run.
        swept: the best label settings of a sweep, to which `quality` belongs.
    """

    state: State
    quality: float = 0.0
    reason: str = ""
    measures: dict[str, float] = field(default_factory=dict)
    swept: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes:
        id: name of its run directory.
        values: values of the searched keys.
        scores: one per objective, in the order of the request; empty without scores.
        reason: why the trial did not complete.
        measures: other metrics: `epochs`, `seconds`, label-free scores.
        swept: the best label settings of a sweep.
    """

    number: int
    id: str
    state: State
    values: Values
    scores: tuple[float, ...] = ()
    reason: str = ""
    measures: dict[str, float] = field(default_factory=dict)
    swept: Values = field(default_factory=dict)

    @property
    def ranked(self) -> bool:
        """Whether it may be the best."""
        return bool(self.scores) and self.state in SCORED

    @property
    def point(self) -> Values:
        """All that a run must set to be this trial's."""
        return {**self.values, **self.swept}


def open_storage(journal: Path) -> BaseStorage:
    """The journal of a search, to write or only to read it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return JournalStorage(JournalFileBackend(str(journal)))


def repair(journal: Path) -> None:
    """Remove the lock and the incomplete last line of a killed process. No other process may use the journal."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists():
        os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)


def sampler(stage: Phase, n_trials: int | None, n_known: int) -> TPESampler:
    """Multivariate TPE; running trials count as bad (constant liar), so they are not repeated.

    The seed depends on the number of trials, so that a resumed search does not sample the same values again.
    """
    least, most = STARTUP_TRIALS
    startup = most if n_trials is None else min(most, max(least, n_trials // STARTUP_SHARE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            seed=(stage.base.seed + n_known) % 2**32, multivariate=True, constant_liar=True, n_startup_trials=startup
        )


def open_study(storage: BaseStorage, stage: Phase) -> optuna.Study:
    """The study of a phase, created if it is new."""
    return optuna.create_study(
        storage=storage,
        study_name=stage.name,
        directions=[direction(objective) for objective in stage.objectives],
        load_if_exists=True,
    )


def direction(objective: Objective) -> Literal["minimize", "maximize"]:
    return "minimize" if objective == "hours" else "maximize"


def recover(study: optuna.Study) -> None:
    """Requeue, in first place, the trials that an earlier process left running.

    Each trial is enqueued before it is marked as failed, so a process killed in between neither loses nor duplicates
    one.
    """
    waiting = [trial.system_attrs.get(FIXED) for trial in study.get_trials(states=[WAITING])]
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        values = trial.params or trial.system_attrs.get(FIXED, {})
        if values and values not in waiting:
            study.enqueue_trial(values)
        study.tell(trial.number, state=TrialState.FAIL)


def enqueue(study: optuna.Study, points: Iterable[Values]) -> None:
    """Enqueue points that are not in the study yet."""
    known = [{**trial.system_attrs.get(FIXED, {}), **trial.params} for trial in study.get_trials(deepcopy=False)]
    for point in points:
        if point not in known:
            study.enqueue_trial(point)


def read_rows(study: optuna.Study, seed: int) -> list[Row]:
    """The started trials, by number, without interrupted ones, which were requeued.

    Args:
        seed: of runs whose trials do not set one.
    """
    rows = [_row(trial, seed) for trial in study.get_trials(deepcopy=False) if trial.state != WAITING and trial.params]
    return [row for row in rows if row.state != "interrupted"]


def n_done(rows: Sequence[Row]) -> int:
    """Number of trials that count towards the budget."""
    return sum(row.state != "running" for row in rows)


def best_first(rows: Iterable[Row]) -> list[Row]:
    """Ranked trials, best first by the first objective; a run that was requested twice is listed once."""
    found: dict[str, Row] = {}
    for row in sorted((row for row in rows if row.ranked), key=lambda row: (-row.scores[0], row.number)):
        found.setdefault(row.id, row)
    return list(found.values())


def pareto_front(rows: Iterable[Row]) -> list[Row]:
    """The Pareto front of quality (higher is better) and hours (lower is better)."""
    front: list[Row] = []
    for row in sorted(best_first(rows), key=lambda row: (-row.scores[0], row.scores[1])):
        if not front or row.scores[1] < front[-1].scores[1]:
            front.append(row)
    return front


def _row(trial: FrozenTrial, seed: int) -> Row:
    facts: dict[str, Any] = trial.user_attrs
    values = {key: rounded(value) for key, value in trial.params.items()}
    return Row(
        trial.number,
        run_id(values, seed),
        _state(trial),
        values,
        tuple(trial.values or ()),
        facts.get("reason", ""),
        facts.get("measures", {}),
        facts.get("swept", {}),
    )


def _state(trial: FrozenTrial) -> State:
    """The recorded state; a trial without one was interrupted."""
    if trial.state == TrialState.RUNNING:
        return "running"
    recorded: State = trial.user_attrs.get("state", "interrupted")
    return recorded if trial.state == TrialState.COMPLETE or recorded == "failed" else "interrupted"
