"""A training run on Ray, in the driver: cluster, actor pool, Ray Train, progress and cleanup."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from uuid import uuid4

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from reid_ray.config import Config
from reid_ray.data.images import Dataset
from reid_ray.errors import StorageError
from reid_ray.io.files import UPLOAD_SECONDS
from reid_ray.io.paths import RemotePath
from reid_ray.runtime.actor_pool import Pool, with_threads
from reid_ray.runtime.cleanup import short_lived
from reid_ray.runtime.cluster import cluster
from reid_ray.runtime.faults import plain_error
from reid_ray.runtime.resources import Plan
from reid_ray.runtime.shared import check_shared, memory_of_nodes
from reid_ray.runtime.worker import Assignment, Failure, train_worker
from reid_ray.training.checks import build_modules
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.interrupt import put_back, terminated_as_interrupted
from reid_ray.training.metrics import Event, MetricsFollower
from reid_ray.training.requirements import check_memory
from reid_ray.training.rundir import RunDirectory


def train_on_ray(
    config: Config, datasets: Mapping[str, Dataset], listener: Callable[[Event], None] | None = None
) -> None:
    """Train, or resume a run, with Ray Train workers and an actor pool."""
    started = time.time()
    build_modules(config, DistributedContext())  # raises for weights that do not fit, before anything is started
    directory = RunDirectory.of(config)
    # In this order: Ray installs its own SIGTERM handler when it starts.
    with directory.held() as lease, cluster(config) as resources, terminated_as_interrupted():
        check_memory(config, datasets, **_memory_of_a_worker(config, resources))
        directory.create(config, datasets)
        readers = {section: dataset.images for section, dataset in datasets.items()}
        check_shared(directory.path)
        pool = Pool.start(config, readers, resources)
        try:
            trainers = with_threads(config, resources.trainers)
            with following(directory, listener):
                result = _fit(config, resources, Assignment(trainers, readers, pool, started, lease))
        finally:
            pool.stop()
        if isinstance(result, Failure):
            raise result.error()
    directory.remove_abandoned()  # temporary files of workers that died


def _memory_of_a_worker(config: Config, resources: Plan) -> dict[str, int]:
    """Bytes that a training worker may use, as `check_memory` takes them; of GPUs the cluster does not know."""
    nodes = memory_of_nodes()
    found = {"host_bytes": min(max(nodes), sum(nodes) // config.runtime.n_workers)}
    return {**found, "device_bytes": sys.maxsize} if resources.trainers.gpus else found


def _fit(config: Config, resources: Plan, assignment: Assignment) -> Failure | None:
    """Run Ray Train. Our own checkpoints hold the state, so Ray's storage is temporary."""
    runtime, share = config.runtime, resources.trainers
    # In the run directory, which every node sees; the name is new, so a cleanup process of an earlier driver ignores
    # it.
    storage = RunDirectory.of(config).path / f".ray-{uuid4().hex[:8]}"
    with short_lived(storage.parent, storage), restored_signal(signal.SIGINT):
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"assignment": assignment},
            torch_config=TorchConfig(backend="nccl" if share.gpus else "gloo", timeout_s=runtime.timeout_seconds),
            scaling_config=ScalingConfig(
                num_workers=(runtime.min_workers, runtime.n_workers) if runtime.min_workers else runtime.n_workers,
                use_gpu=share.gpus > 0,
                resources_per_worker={"CPU": share.cpus} | ({"GPU": share.gpus} if share.gpus else {}),
            ),
            run_config=RunConfig(
                name=config.name,
                storage_path=storage.key if isinstance(storage, RemotePath) else str(storage),
                storage_filesystem=storage.filesystem if isinstance(storage, RemotePath) else None,
                failure_config=FailureConfig(max_failures=runtime.max_failures, controller_failure_limit=3),
            ),
        )
        try:
            result = trainer.fit()
        except SystemExit as error:  # raised by Ray Train's handler of Ctrl-C
            raise KeyboardInterrupt from error
        except ray.train.TrainingFailedError as error:
            raise plain_error(error) from error
    answer: Failure | None = result.return_value
    return answer


@contextmanager
def following(directory: RunDirectory, listener: Callable[[Event], None] | None) -> Iterator[None]:
    """Pass the events that rank 0 writes to a listener in this process while the block runs.

    If the storage fails, events are delayed or lost here; rank 0 reports the error.
    """
    if listener is None:
        yield
        return
    done = threading.Event()
    follower = MetricsFollower(directory.metrics_file)
    seconds = UPLOAD_SECONDS if isinstance(directory.path, RemotePath) else 0.3

    def forward() -> None:
        try:
            events = follower.read()
        except (StorageError, OSError):
            return
        for event in events:
            listener(event)

    def poll() -> None:
        while not done.wait(seconds):
            forward()

    thread = threading.Thread(target=poll, name="reid-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        forward()


@contextmanager
def restored_signal(number: signal.Signals) -> Iterator[None]:
    """Restore a signal handler after the block; Ray Train installs its own and does not remove it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(number)
    try:
        yield
    finally:
        put_back(number, handler)
