"""Ray Tune's `OptunaSearch`, with what it leaves out: why a trial ended, and runs that are asked for twice at once."""

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

FAILURES_IN_VAIN = 5
"""Trials that fail before any has come to an end, after which it is not to be expected of others."""


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """Asks the study of a stage for values, and tells it how the trial ended.

    A trial is told once, by the report that ends it (`final`) or by the last one before it was stopped. One that has
    failed is told as such, with its reason, and has no value.

    Args:
        stage: what is searched.
        storage: the open journal.
        sampler: how values are drawn.
        on_told: called after each trial that was told.
    """

    def __init__(
        self,
        stage: Phase,
        storage: optuna.storages.BaseStorage,
        sampler: optuna.samplers.BaseSampler,
        on_told: Callable[[], None],
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
        self._on_told = on_told
        self._under_way: dict[str, str] = {}
        self._held: tuple[optuna.Trial, dict[str, Any]] | None = None
        self._n_failed = self._n_scored = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Values for a trial, or None while a trial with the same values is under way: both would write one run."""
        if self._n_failed >= FAILURES_IN_VAIN and not self._n_scored:
            return str(self.FINISHED)
        if self._held is None:
            values = super().suggest(trial_id)
            self._held = self._ot_trials.pop(trial_id), values
        trial, values = self._held
        run = self._stage.id_of(values)
        if run in self._under_way.values():
            return None
        self._held, self._ot_trials[trial_id], self._under_way[trial_id] = None, trial, run
        return values

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if not result["final"]:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        self._under_way.pop(trial_id, None)
        trial = self._ot_trials[trial_id]
        outcome = _ended(result, error)
        for name, fact in asdict(outcome).items():
            if name != "quality" and fact:
                trial.set_user_attr(name, fact)
        told = None if outcome.state == "failed" else result
        super().on_trial_complete(trial_id, told, error=told is None)
        self._n_failed += told is None
        self._n_scored += told is not None
        self._on_told()


def _ended(result: Mapping[str, Any] | None, error: bool) -> Outcome:
    """How a trial ended, by its last report or by its process."""
    if error or result is None:
        return Outcome("failed", reason="its process died again and again; often the machine has run out of memory")
    outcome: Outcome = result["outcome"]
    return outcome if result["final"] else replace(outcome, state="stopped")
