"""A search from start to end: the Optuna study proposes and records trials, Ray Tune runs them.

Ray Tune's own state is not used. After any interruption the same call reads the journal, requeues the interrupted
trials, whose runs resume from their checkpoints, and continues until the budget is spent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import optuna
import ray
from optuna.storages import BaseStorage
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from reid_ray.api import prepare, train
from reid_ray.config import Config
from reid_ray.devices import n_cores
from reid_ray.errors import ConfigError
from reid_ray.evaluation.protocols import protocol_of, why_not
from reid_ray.logging_utils import silenced, variables
from reid_ray.runtime.actor_executor import fetch
from reid_ray.runtime.cleanup import short_lived
from reid_ray.runtime.cluster import joined
from reid_ray.runtime.shared import check_shared
from reid_ray.training.checks import build_modules
from reid_ray.training.datasets import MAIN
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.interrupt import terminated_as_interrupted
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.source_runs import source_runs, started_from
from reid_ray.tuning.capacity import Capacity, cpus_to_start, make_capacity, trial_plan
from reid_ray.tuning.phases import Phase, final_phase, search_phase, seed_phase, seeded
from reid_ray.tuning.request import METRICS, Budget, Request, SearchDirectory, final_base, trial_base
from reid_ray.tuning.results import Results, read_results, write_results
from reid_ray.tuning.searcher import StudySearch
from reid_ray.tuning.spaces import Values, starting_point
from reid_ray.tuning.study import (
    Row,
    best_first,
    enqueue,
    n_done,
    open_storage,
    open_study,
    read_rows,
    recover,
    repair,
    sampler,
)
from reid_ray.tuning.trial import Task, run_trial

MAX_TRIAL_RESTARTS = 2
"""Restarts of a trial whose process died; its run resumes."""

REDUCTION = 3
"""Reduction factor of successive halving: one in this many trials passes a rung."""

GRACE_SHARE = 8
"""The first rung is at 1/GRACE_SHARE of the epochs."""

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output ignores verbose=0
}

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class View:
    """A running phase, for progress displays.

    Attributes:
        stage: the phase; runs of trials are in `stage.folder`, by id.
        study: read-only.
        n_trials: trials of the phase; None if only time limits it.
        capacity: resources of the trials.
    """

    stage: Phase
    study: optuna.Study
    n_trials: int | None
    capacity: Capacity


Watch = Callable[[View], AbstractContextManager[None]]


def search(request: Request, budget: Budget, watch: Watch | None = None) -> Results:
    """Run a search, or resume it. A finished search returns at once.

    Args:
        request: from `make_request`.
        budget: when to stop. A search may be called again with a larger budget.
        watch: called for each phase; returns a context manager that is entered while the phase runs.

    Raises:
        UserError: a one-line message, before anything starts, for any mistake that the user can fix.
        KeyboardInterrupt: after Ctrl-C; the search can be resumed.
    """
    directory, watch = SearchDirectory.of(request), watch or (lambda view: nullcontext())
    _check_inputs(request, budget)
    with directory.owned(request):
        repair(directory.journal)
        with ExitStack() as stack:
            try:
                _all_stages(_Engine(request, budget, open_storage(directory.journal), watch, stack), request, budget)
            finally:
                results = read_results(directory.path)
                if results.rows:
                    write_results(results)  # includes trials that just ended or were interrupted
        return results


def _all_stages(engine: _Engine, request: Request, budget: Budget) -> None:
    """The search; its best trials with more seeds; the winner against the recipe."""
    first = search_phase(request)
    engine.run(first, [starting_point(request.config, request.space)], budget.trials)
    best = [row.point for row in best_first(engine.rows(first))]
    path = SearchDirectory.of(request).path
    if best and budget.seeds and budget.top:
        repeats = seed_phase(request, best[: budget.top], budget.seeds)
        points = seeded(best[: budget.top], repeats)
        engine.run(repeats, points, len(points))
    found = read_results(path)
    if found.winner is not None and found.winner != found.own and budget.compare:
        final = final_phase(request, [found.winner, found.own], budget.compare)
        points = seeded([found.winner, found.own], final)
        engine.run(final, points, len(points))


class _Engine:
    """Runs phases on one cluster, which is joined or started on first use, and left when `stack` closes."""

    def __init__(self, request: Request, budget: Budget, storage: BaseStorage, watch: Watch, stack: ExitStack) -> None:
        self._request = request
        self._budget = budget
        self._storage = storage
        self._watch = watch
        self._stack = stack
        self._cluster: tuple[dict[str, float], int | None] | None = None

    def rows(self, stage: Phase) -> list[Row]:
        return read_rows(open_study(self._storage, stage), stage.base.seed)

    def run(self, stage: Phase, points: Sequence[Values], n_trials: int | None) -> None:
        """Run a phase until it has `n_trials`; the first of them are `points`."""
        study = open_study(self._storage, stage)
        recover(study)
        enqueue(study, [point for point in points if point])
        clock = Clock(study, self._budget.hours if stage.name == "search" else None)
        n_left = None if n_trials is None else n_trials - n_done(self.rows(stage))
        if (n_left is not None and n_left <= 0) or clock.seconds_left <= 0:
            return
        cluster, cores = self._joined()
        capacity = make_capacity(stage.base, self._budget.concurrent, cluster, cores)
        check_shared(SearchDirectory.of(self._request).path)
        stage = replace(stage, base=_with_source(stage, capacity))
        with self._watch(View(stage, study, n_trials, capacity)), clock.running():
            try:
                self._fit(stage, study, n_left, n_trials, capacity, clock)
            finally:
                recover(study)  # requeue trials that the time limit or Ctrl-C interrupted

    def _joined(self) -> tuple[dict[str, float], int | None]:
        """The cluster's total resources, and this machine's cores if the cluster is local."""
        if self._cluster is None:
            self._stack.enter_context(_silence_tune())
            base, wanted = trial_base(self._request), self._budget.concurrent
            own = self._stack.enter_context(
                joined(
                    base.runtime.address,
                    num_cpus=cpus_to_start(base, wanted, n_cores()),
                    partial_writes=SearchDirectory.of(self._request).path,
                )
            )
            self._stack.enter_context(terminated_as_interrupted())  # after Ray, which installs its own handler
            self._cluster = ray.cluster_resources(), n_cores() if own else None
        return self._cluster

    def _fit(
        self,
        stage: Phase,
        study: optuna.Study,
        n_left: int | None,
        n_trials: int | None,
        capacity: Capacity,
        clock: Clock,
    ) -> None:
        """Run Ray Tune."""
        path = SearchDirectory.of(self._request).path
        scratch = path / f".ray-{uuid4().hex[:8]}"
        drawn = sampler(stage, n_trials, len(study.get_trials(deepcopy=False)))
        with short_lived(path, scratch):
            tune.Tuner(
                tune.with_resources(partial(run_trial, task=Task(stage, capacity)), capacity.placement()),
                tune_config=tune.TuneConfig(
                    search_alg=StudySearch(stage, self._storage, drawn, partial(_after_trial, path, clock)),
                    scheduler=_scheduler(stage),
                    num_samples=-1 if n_left is None else n_left,
                    max_concurrent_trials=capacity.concurrent,
                    time_budget_s=clock.seconds_left if clock.limited else None,
                ),
                run_config=tune.RunConfig(
                    name=stage.name,
                    storage_path=str(scratch),
                    failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_RESTARTS),
                    verbose=0,
                ),
            ).fit()


def _check_inputs(request: Request, budget: Budget) -> None:
    """Raise errors that would fail every trial before anything is written or started."""
    if budget.trials is None and budget.hours is None:
        raise ConfigError("A search needs a limit: pass --trials, --hours, or both.")
    base = trial_base(request).model_copy(update={"name": request.name})
    trial_plan(base, n_gpus=0, n_cores=1)
    resolved, _ = prepare(base)
    build_modules(resolved, DistributedContext())
    if budget.compare:
        final, datasets, *_ = prepare(final_base(request))
        reason = why_not(datasets[MAIN].table, final.evaluation)
        if protocol_of(final.evaluation).split == "train":
            reason = f"Evaluation.protocol={final.evaluation.protocol} judges training images."
        if reason is not None:
            raise ConfigError(f"--compare evaluates on the test split, but {reason[0].lower()}{reason[1:]}")


def _with_source(stage: Phase, capacity: Capacity) -> Config:
    """The phase's configuration, starting from one model of the source, which is trained first if there is a source."""
    placed = {"name": stage.folder.name, "output": str(stage.folder.parent / "source")}
    runs = source_runs(stage.base.model_copy(update=placed))
    for run in runs:
        if not RunDirectory.of(run).is_complete(run):
            has = {"num_cpus": capacity.bundle.get("CPU", 0), "num_gpus": capacity.bundle.get("GPU", 0)}
            fetch(ray.remote(_train_source).options(**has, scheduling_strategy="SPREAD", max_retries=2).remote(run))
    return started_from(stage.base, runs)


def _after_trial(path: Path, clock: Clock) -> None:
    """Write the results after each trial, so that a killed process loses nothing."""
    clock.note()
    write_results(read_results(path))


def _train_source(config: Config) -> None:
    train(config)


def _scheduler(stage: Phase) -> ASHAScheduler | None:
    """Successive halving by epochs, with early stopping; the end of a training is never a rung."""
    if not stage.stop_early:
        return None
    epochs = stage.base.training.epochs
    return ASHAScheduler(
        time_attr="epoch",
        metric=METRICS[stage.objectives[0]],
        mode="max",
        max_t=epochs + 1,
        grace_period=max(1, epochs // GRACE_SHARE),
        reduction_factor=REDUCTION,
    )


@contextmanager
def _silence_tune() -> Iterator[None]:
    """Run the block without Ray Tune's logger files, Ctrl-C handler and log output."""
    with variables(TUNE_ENVIRONMENT), silenced("ray.tune"):
        yield


class Clock:
    """Total search time of a phase over all processes; stored in the study."""

    def __init__(self, study: optuna.Study, hours: float | None) -> None:
        self._study = study
        self._before = float(study.user_attrs.get("seconds", 0))
        self._limit = None if hours is None else hours * SECONDS_PER_HOUR
        self._started: float | None = None

    @property
    def limited(self) -> bool:
        return self._limit is not None

    @property
    def seconds_left(self) -> float:
        return float("inf") if self._limit is None else self._limit - self._seconds()

    @contextmanager
    def running(self) -> Iterator[None]:
        self._started = time.monotonic()
        try:
            yield
        finally:
            self.note()

    def note(self) -> None:
        self._study.set_user_attr("seconds", round(self._seconds(), 1))

    def _seconds(self) -> float:
        return self._before + (0 if self._started is None else time.monotonic() - self._started)
