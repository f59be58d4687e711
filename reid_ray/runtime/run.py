"""A training run on Ray, seen from the driver: cluster, pool, Ray Train, progress, and nothing left behind."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from reid_ray.config import Config
from reid_ray.data.images import Dataset
from reid_ray.errors import ConfigError, RunError, UserError
from reid_ray.runtime.pools import Pool
from reid_ray.runtime.resources import Plan, check_fits, plan
from reid_ray.runtime.workers import Assignment, Failure, train_worker
from reid_ray.training.inline import COLLECTIVE_TIMEOUT
from reid_ray.training.loop import build_networks
from reid_ray.training.metrics import Event, MetricsFollower
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.world import World

NAMESPACE = "reid_ray"
"""Ray namespace of every job of ours; without one each driver gets a random one and cannot see its own actors."""


def train_on_ray(config: Config, dataset: Dataset, listener: Callable[[Event], None] | None = None) -> None:
    """Run, or resume, with Ray Train workers and an actor pool; the same call continues an interrupted run."""
    started = time.time()
    build_networks(config, World())  # weights that do not fit are found here, before anything is started or written
    with cluster(config) as resources:
        directory = RunDirectory.of(config)
        directory.create(config, dataset.table)
        pool = Pool.start(
            config,
            dataset.images,
            cpus=resources.cpus_per_process,
            gpus=resources.gpus_per_process,
        )
        try:
            pool.wait()
            with following(directory, listener):
                result = _fit(config, resources, Assignment(config, dataset.images, pool, started))
        finally:
            pool.stop()
        if isinstance(result, Failure):
            raise result.error()


@contextmanager
def cluster(config: Config) -> Iterator[Plan]:
    """Join the cluster of `runtime.address` (or `RAY_ADDRESS`), or start one on this machine for the block."""
    runtime = config.runtime
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    joined = ray.is_initialized()
    if not joined:
        remote = runtime.address or os.environ.get("RAY_ADDRESS")
        local = plan(runtime, n_gpus=0)
        # On one machine the processes take turns, so it may promise more CPUs than it has.
        options: dict[str, Any] = (
            {"address": remote}
            if remote
            else {"num_cpus": max(os.cpu_count() or 1, int(local.cpus) + 1), "include_dashboard": True}
        )
        try:
            ray.init(namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=False, **options)
        except ConnectionError as error:
            raise RunError(
                f"No Ray cluster answers at {remote}: {error}. Start one with 'ray start --head'."
            ) from error
    try:
        available = ray.cluster_resources()
        n_gpus = 0 if runtime.device == "cpu" else available.get("GPU", 0)
        if runtime.device == "cuda" and not n_gpus:
            raise ConfigError("runtime.device=cuda, but the Ray cluster has no GPU; use runtime.device=auto or cpu.")
        resources = plan(runtime, n_gpus=n_gpus)
        check_fits(resources, available)
        yield resources
    finally:
        if not joined:
            ray.shutdown()


def _fit(config: Config, resources: Plan, assignment: Assignment) -> Failure | None:
    """Ray Train from start to end. Our own checkpoints carry the state, so Ray's storage holds nothing that lasts."""
    use_gpu = resources.gpus_per_process > 0
    with tempfile.TemporaryDirectory(prefix="reid_ray-") as storage, restored_signal(signal.SIGINT):
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"assignment": assignment},
            torch_config=TorchConfig(
                backend="nccl" if use_gpu else "gloo", timeout_s=int(COLLECTIVE_TIMEOUT.total_seconds())
            ),
            scaling_config=ScalingConfig(
                num_workers=config.runtime.n_workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": resources.cpus_per_process}
                | ({"GPU": resources.gpus_per_process} if use_gpu else {}),
            ),
            run_config=RunConfig(
                name=config.name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=config.runtime.max_failures, controller_failure_limit=3),
            ),
        )
        try:
            result = trainer.fit()
        except SystemExit as error:  # how Ray Train's own handler ends a run on Ctrl-C
            raise KeyboardInterrupt from error
        except ray.train.TrainingFailedError as error:
            raise _plain(error) from error
    answer: Failure | None = result.return_value
    return answer


def _plain(error: Exception) -> Exception:
    """What went wrong in the workers, as one error: a user's mistake as itself."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause = getattr(failure, "cause", None) or failure.__cause__ or failure
        if isinstance(cause, UserError):
            return cause
    return error


@contextmanager
def following(directory: RunDirectory, listener: Callable[[Event], None] | None) -> Iterator[None]:
    """Hand the events that rank 0 writes to a listener in this process, while the block runs."""
    if listener is None:
        yield
        return
    done = threading.Event()
    follower = MetricsFollower(directory.metrics_file)

    def poll() -> None:
        while not done.wait(0.3):
            for event in follower.read():
                listener(event)

    thread = threading.Thread(target=poll, name="reid-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        for event in follower.read():
            listener(event)


@contextmanager
def restored_signal(number: signal.Signals) -> Iterator[None]:
    """Put a signal's handler back after the block; Ray Train installs its own and leaves it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, handler)
