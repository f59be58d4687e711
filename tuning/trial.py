"""One trial: a complete run and its score. Ray Tune calls `run_trial` in an actor per trial."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune

from reid_ray.api import train
from reid_ray.config import Config
from reid_ray.devices import prepare_process
from reid_ray.errors import DegenerateLabelsError, DivergedError, RunError, UserError
from reid_ray.io.files import first_line
from reid_ray.io.lease import wait_until_free
from reid_ray.reports.series import number
from reid_ray.run import Run, load_run
from reid_ray.runtime.actor_executor import fetch
from reid_ray.training.metrics import Event, pauses, read_metrics
from reid_ray.training.rundir import RunDirectory
from reid_ray.tuning.capacity import Capacity
from reid_ray.tuning.objectives import label_free_score
from reid_ray.tuning.phases import Phase
from reid_ray.tuning.request import METRICS
from reid_ray.tuning.spaces import Values
from reid_ray.tuning.study import Outcome
from reid_ray.tuning.sweep import best_setting

SECONDS_PER_HOUR = 3600

GROUP_START_SECONDS = "900"
"""Timeout for the placement of Ray Train's workers, after which the trial fails; Ray's default is to wait forever."""

ORPHAN_SECONDS = 60.0
"""A trial of a search that was killed ends within this time; only one search at a time has trials."""

MEASURES = ("label_free", "n_clusters", "silhouette", "clustered_share", "camera_mix")
"""Label-free scores that are recorded with the objective."""


@dataclass(frozen=True)
class Task:
    """What all trials of a phase share. Small, because it is sent to each actor."""

    stage: Phase
    capacity: Capacity

    def config_of(self, values: Values) -> Config:
        """The run of a trial with the resources of a trial."""
        config = self.stage.config_of(values)
        runtime = config.runtime.model_copy(update={"device": self.capacity.device, "threads": self.capacity.threads})
        return config.model_copy(update={"runtime": runtime})


def run_trial(values: Mapping[str, Any], task: Task) -> None:
    """Train with these values, or resume, and report the score. Never raises."""
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", GROUP_START_SECONDS)
    config = task.config_of(dict(values))
    wait_until_free(RunDirectory.of(config).lease_file, ORPHAN_SECONDS)
    report = _Reporter(task, config)
    report.last(attempt(config, task.stage, report))


def attempt(config: Config, stage: Phase, listener: _Reporter | None = None) -> Outcome:
    """Train and score a run. Degenerate labels and divergence are blamed on the values, other errors are not."""
    try:
        run = train(config, listener=listener)
        outcome = _evaluate(run, config, stage)
        if not math.isfinite(outcome.quality):
            raise RunError(f"The {stage.objectives[0]} objective of {run.path} is not a finite number.")
        return outcome
    except DegenerateLabelsError as error:
        return Outcome("degenerate", reason=str(error))
    except DivergedError as error:
        return Outcome("diverged", reason=str(error))
    except UserError as error:
        return Outcome("failed", reason=str(error))
    except Exception as error:  # the search continues without this trial
        log = RunDirectory.of(config).path.with_suffix(".log")
        log.write_bytes(traceback.format_exc().encode())
        return Outcome("failed", reason=f"{type(error).__name__}: {first_line(error)} (see {log})")


def working_seconds(events: list[Event]) -> float:
    """Wall-clock seconds of a run, without the time between a kill and the restart."""
    started = sum(number(event, "startup_seconds") or 0 for event in events if event["event"] == "start")
    return float(started + sum(pauses(events)))


class _Reporter:
    """Reports the end of a trial to Ray Tune and, with early stopping, each evaluation."""

    def __init__(self, task: Task, config: Config) -> None:
        self._task = task
        self._config = config
        self._best = max(
            (number(event, "mAP") or 0.0 for event in self._events() if event["event"] == "evaluate"), default=0.0
        )

    def __call__(self, event: Event) -> None:
        if not self._task.stage.stop_early or event["event"] != "evaluate":
            return
        self._best = max(self._best, number(event, "mAP") or 0.0)
        if event["epoch"] < self._config.training.epochs:  # the last one is in the final report
            self._report(Outcome("running", self._best), event["epoch"], final=False)

    def last(self, outcome: Outcome) -> None:
        self._report(outcome, self._config.training.epochs, final=True)

    def _report(self, outcome: Outcome, epoch: int, *, final: bool) -> None:
        events = self._events()
        seconds, n_epochs = working_seconds(events), sum(event["event"] == "epoch" for event in events)
        measures = {"epochs": float(n_epochs), "seconds": round(seconds, 1), **outcome.measures}
        outcome = replace(outcome, measures=measures)
        scores = {METRICS[self._task.stage.objectives[0]]: outcome.quality}
        scores["hours"] = seconds * self._task.capacity.devices / SECONDS_PER_HOUR
        tune.report({**scores, "outcome": outcome, "epoch": epoch, "final": final})

    def _events(self) -> list[Event]:
        return read_metrics(RunDirectory.of(self._config).metrics_file)


def _evaluate(run: Run, config: Config, stage: Phase) -> Outcome:
    """Score of a finished run by the first objective."""
    if stage.objectives[0] == "map":
        evaluations = [number(event, "mAP") or 0.0 for event in run.metrics("evaluate")]
        if not evaluations:
            raise RunError(f"{run.path} was never evaluated: its data has no query and gallery with identities.")
        return Outcome("complete", max(evaluations))
    if config.runtime.backend == "inline":
        prepare_process(config.runtime)
        return score_labels(run, stage)
    # The trial's process has no resources reserved; those of its trainers are free now.
    has = {"num_cpus": config.runtime.cpus_per_worker, "num_gpus": int(config.runtime.device == "cuda")}
    remote = ray.remote(_score_remotely).options(**has, scheduling_strategy="SPREAD", max_retries=2)
    outcome: Outcome = fetch(remote.remote(str(run.path), config, stage))
    return outcome


def _score_remotely(path: str, config: Config, stage: Phase) -> Outcome:
    prepare_process(config.runtime)
    return score_labels(load_run(path), stage)


def score_labels(run: Run, stage: Phase) -> Outcome:
    """Label-free score of the last model, and the best label settings of a sweep."""
    if stage.sweep:
        setting, quality = best_setting(run, stage.sweep)
        return Outcome("complete", quality, swept=setting)
    scores = label_free_score(run)
    return Outcome(
        "complete", scores["model_score"], measures={name: scores[name] for name in MEASURES if name in scores}
    )
