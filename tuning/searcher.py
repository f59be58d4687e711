"""Ray Tune's `OptunaSearch`, extended to record why a trial ended and to keep equal trials from running together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from reid_ray.tuning.phases import Phase
from reid_ray.tuning.request import METRICS
from reid_ray.tuning.spaces import suggest
from reid_ray.tuning.study import Outcome, direction

MAX_INITIAL_FAILURES = 5
"""Failed trials, before the first success, after which the search gives up."""


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """Gets values from the study of a phase, and records how each trial ended.

    A trial is recorded once, by its final report (`final`) or by the last one before it was stopped. A failed trial is
    recorded with its reason and without a value.

    Args:
        stage: the phase.
        storage: the open journal.
        sampler: Optuna sampler.
        on_recorded: called after each recorded trial.
    """

    def __init__(
        self,
        stage: Phase,
        storage: optuna.storages.BaseStorage,
        sampler: optuna.samplers.BaseSampler,
        on_recorded: Callable[[], None],
    ) -> None:
        metrics = [METRICS[objective] for objective in stage.objectives]
        modes = [direction(objective)[:3] for objective in stage.objectives]
        single = len(metrics) == 1
        super().__init__(
            partial(suggest, space=stage.space),
            metric=metrics[0] if single else metrics,
            mode=modes[0] if single else modes,
            sampler=sampler,
            study_name=stage.name,
            storage=storage,
        )
        self._stage = stage
        self._on_recorded = on_recorded
        self._running: dict[str, str] = {}
        self._held: tuple[optuna.Trial, dict[str, Any]] | None = None
        self._n_failed = self._n_scored = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Values for a trial, or None while a trial with equal values runs: both would write to one run directory."""
        if self._n_failed >= MAX_INITIAL_FAILURES and not self._n_scored:
            return str(self.FINISHED)
        if self._held is None:
            values = super().suggest(trial_id)
            self._held = self._ot_trials.pop(trial_id), values
        trial, values = self._held
        run = self._stage.id_of(values)
        if run in self._running.values():
            return None
        self._held, self._ot_trials[trial_id], self._running[trial_id] = None, trial, run
        return values

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if not result["final"]:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        self._running.pop(trial_id, None)
        trial = self._ot_trials[trial_id]
        outcome = _ended(result, error)
        for name, fact in asdict(outcome).items():
            if name != "quality" and fact:
                trial.set_user_attr(name, fact)
        recorded = None if outcome.state == "failed" else result
        super().on_trial_complete(trial_id, recorded, error=recorded is None)
        self._n_failed += recorded is None
        self._n_scored += recorded is not None
        self._on_recorded()


def _ended(result: Mapping[str, Any] | None, error: bool) -> Outcome:
    """Outcome of a trial, from its last report or the death of its process."""
    if error or result is None:
        return Outcome("failed", reason="its process died repeatedly; often the machine ran out of memory")
    outcome: Outcome = result["outcome"]
    return outcome if result["final"] else replace(outcome, state="stopped")
