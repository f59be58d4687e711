"""The study of a search: Optuna's journal is the truth about its trials, and survives any process.

Optuna knows a trial that was asked for and not told as running. Only one process works on a search, so when it begins,
running trials are those that an earlier process has left; they are asked for again, and their runs go on.
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
"""How a trial stands.

`complete`: trained to the end. `stopped`: fell behind, and was told by what it had. `degenerate`, `diverged`: the
method's own end, told as the worst value. `failed`: for a reason that says nothing about the values. `interrupted`:
the search ended before it, and asks for it again.
"""

SCORED: tuple[State, ...] = ("complete", "stopped")
"""States in which a score says how good the values are."""

WAITING, FIXED = TrialState.WAITING, "fixed_params"
"""Optuna's state of a trial that is to be asked for next, and where it keeps the values."""

STARTUP_SHARE, STARTUP_TRIALS = 3, (4, 10)
"""Of a third of the trials, but at least 4 and at most 10, the values are drawn without a model."""


@dataclass(frozen=True)
class Outcome:
    """How a trial stands or ended, and what it is worth; this is what it tells the study.

    Attributes:
        quality: of the first objective, more is better; 0 where there is none.
        reason: a sentence, where it did not end well.
        measures: other numbers of the run.
        swept: settings of the labels that the quality was had with, where some were tried.
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
        values: what it sets.
        scores: by objective, in the order of the request; empty where there are none.
        reason: why it ended, where it did not end well.
        measures: other numbers of it: `epochs`, `seconds`, label-free scores.
        swept: settings of the labels that a sweep has found best.
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


def mend(journal: Path) -> None:
    """Put right what a killed process was writing, or had locked; no other may be at work on the journal."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists():
        os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)


def sampler(stage: Phase, n_trials: int | None, n_known: int) -> TPESampler:
    """TPE over all keys together, which takes trials under way for bad ones so as not to repeat them.

    Its draws depend on how many trials there have been: a search that goes on must not draw the same again.
    """
    least, most = STARTUP_TRIALS
    startup = most if n_trials is None else min(most, max(least, n_trials // STARTUP_SHARE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            seed=(stage.base.seed + n_known) % 2**32, multivariate=True, constant_liar=True, n_startup_trials=startup
        )


def open_study(storage: BaseStorage, stage: Phase) -> optuna.Study:
    """The study of a stage, made where it is new."""
    return optuna.create_study(
        storage=storage,
        study_name=stage.name,
        directions=[direction(objective) for objective in stage.objectives],
        load_if_exists=True,
    )


def direction(objective: Objective) -> Literal["minimize", "maximize"]:
    return "minimize" if objective == "hours" else "maximize"


def recover(study: optuna.Study) -> None:
    """Ask again, and first, for what an earlier process has left running.

    In this order, and for each trial once: a process that is killed in between loses none and doubles none.
    """
    waiting = [trial.system_attrs.get(FIXED) for trial in study.get_trials(states=[WAITING])]
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        values = trial.params or trial.system_attrs.get(FIXED, {})
        if values and values not in waiting:
            study.enqueue_trial(values)
        study.tell(trial.number, state=TrialState.FAIL)


def enqueue(study: optuna.Study, points: Iterable[Values]) -> None:
    """Ask for these points, where that was not done before."""
    known = [{**trial.system_attrs.get(FIXED, {}), **trial.params} for trial in study.get_trials(deepcopy=False)]
    for point in points:
        if point not in known:
            study.enqueue_trial(point)


def read_rows(study: optuna.Study, seed: int) -> list[Row]:
    """The trials that were begun, by number; those that were interrupted have others in their place.

    Args:
        seed: of the runs, where trials set none.
    """
    rows = [_row(trial, seed) for trial in study.get_trials(deepcopy=False) if trial.state != WAITING and trial.params]
    return [row for row in rows if row.state != "interrupted"]


def n_done(rows: Sequence[Row]) -> int:
    """Trials that count for the budget."""
    return sum(row.state != "running" for row in rows)


def best_first(rows: Iterable[Row]) -> list[Row]:
    """Those that may be the best, by the first objective; a run that was asked for twice stands once."""
    found: dict[str, Row] = {}
    for row in sorted((row for row in rows if row.ranked), key=lambda row: (-row.scores[0], row.number)):
        found.setdefault(row.id, row)
    return list(found.values())


def pareto_front(rows: Iterable[Row]) -> list[Row]:
    """Of two objectives, quality and hours: those that no other beats in one without losing in the other."""
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
    """A trial that is told with a value, or as failed, has a state with it; one that was only broken off has none."""
    if trial.state == TrialState.RUNNING:
        return "running"
    told: State = trial.user_attrs.get("state", "interrupted")
    return told if trial.state == TrialState.COMPLETE or told == "failed" else "interrupted"
