"""The Ray cluster of a run: an existing one, or a local one that is started and stopped with the driver."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from reid_ray.config import Config
from reid_ray.devices import n_cores
from reid_ray.errors import ConfigError, RunError
from reid_ray.io.paths import Location
from reid_ray.runtime.cleanup import ray_folder, short_lived
from reid_ray.runtime.resources import Plan, check_fits, plan
from reid_ray.training.rundir import RunDirectory

NAMESPACE = "reid_ray"
"""Ray namespace of all jobs of this package; by default each driver gets a random one."""


@contextmanager
def joined(address: str | None, *, num_cpus: int, partial_writes: Location) -> Iterator[bool]:
    """Join the cluster at `address` (or `RAY_ADDRESS`), or start one on this machine for the block.

    Args:
        num_cpus: CPUs that a local cluster declares; may exceed those of the machine, because processes take turns.
        partial_writes: folder whose partially written files are removed if this process is killed.

    Yields:
        Whether the cluster is local, started by this call.

    Raises:
        RunError: no cluster at this address.
    """
    if ray.is_initialized():
        yield False
        return
    remote = address or os.environ.get("RAY_ADDRESS")
    folder = None if remote else ray_folder()
    options: dict[str, Any] = (
        {"address": remote}
        if remote
        else {
            "num_cpus": max(n_cores(), num_cpus),
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "_temp_dir": str(folder),
        }
    )
    with short_lived(partial_writes, *([folder] if folder else [])):
        try:
            ray.init(namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=False, **options)
        except ConnectionError as error:
            raise RunError(
                f"No Ray cluster answers at {remote}: {error}. Start one with 'ray start --head'."
            ) from error
        try:
            yield folder is not None
        finally:
            ray.shutdown()


@contextmanager
def cluster(config: Config) -> Iterator[Plan]:
    """The cluster of a run, and the resources that the run uses; `ConfigError` if they do not fit."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    runtime = config.runtime
    most = int(plan(config, n_gpus=0, n_cores=1).cpus) + 1
    with joined(runtime.address, num_cpus=most, partial_writes=RunDirectory.of(config).path) as own:
        available = ray.cluster_resources()
        resources = plan(config, n_gpus=usable_gpus(config, available), n_cores=n_cores() if own else None)
        check_fits(resources, available)
        yield resources


def usable_gpus(config: Config, cluster: dict[str, float]) -> float:
    """Number of GPUs of a cluster that a run may use; `ConfigError` if it requires GPUs and there are none."""
    n_gpus = 0 if config.runtime.device == "cpu" else cluster.get("GPU", 0)
    if config.runtime.device == "cuda" and not n_gpus:
        raise ConfigError("runtime.device=cuda, but the Ray cluster has no GPU; use runtime.device=auto or cpu.")
    return n_gpus
