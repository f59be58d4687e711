"""Resources of a trial, and the number of concurrent trials, computed before anything starts so that no trial hangs.

With `runtime.backend=ray` the run places its trainers and pool itself, outside Ray Tune's reservation for the trial.
Ray Tune does not see them, so the number of concurrent trials is limited instead. With `runtime.backend=inline` the
process of the trial is the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ray import tune
from ray.util.state import list_nodes

from reid_ray.config import Config
from reid_ray.errors import ConfigError
from reid_ray.runtime.cluster import usable_gpus
from reid_ray.runtime.resources import Plan, ProcessResources, check_fits, plan

PLACEHOLDER_BUNDLE = {"memory": float(2**20)}
"""Reservation of Ray Tune for a trial that runs in other processes: not empty, and without CPUs that these need."""


@dataclass(frozen=True)
class Capacity:
    """Resources of each trial, and the number of concurrent trials.

    Attributes:
        concurrent: number of concurrent trials.
        bundle: resources that Ray Tune reserves for a trial.
        device: of the trial's processes.
        threads: of each process; None: the run decides.
        devices: GPUs of a trial, or its CPUs without a GPU.
    """

    concurrent: int
    bundle: dict[str, float]
    device: Literal["cpu", "cuda"]
    threads: int | None
    devices: float

    def placement(self) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([dict(self.bundle)])


def cpus_to_start(config: Config, wanted: int | None, n_cores: int) -> int:
    """CPUs that a local cluster declares: enough for the requested number of concurrent trials.

    Args:
        wanted: concurrent trials; None: as many as the cores allow, at least one.
        n_cores: of this machine.
    """
    each = trial_plan(config, n_gpus=0, n_cores=1).cpus
    return max(n_cores, math.ceil(each * (wanted or max(1, int(n_cores // each)))))


def make_capacity(config: Config, wanted: int | None, cluster: dict[str, float], n_cores: int | None) -> Capacity:
    """Fit the trials of a search into a cluster.

    Args:
        config: of the trials.
        wanted: concurrent trials; None: as many as fit.
        cluster: the cluster's total resources.
        n_cores: of this machine for a local cluster; None for an existing cluster.

    Raises:
        ConfigError: not even one trial fits, or the cluster cannot release the resources of a stopped trial.
    """
    runtime, n_gpus = config.runtime, usable_gpus(config, cluster)
    needs = trial_plan(config, n_gpus=n_gpus, n_cores=n_cores)
    check_fits(needs, cluster)
    fitting = [int(cluster[name] / each) for name, each in (("CPU", needs.cpus), ("GPU", needs.gpus)) if each]
    concurrent = min([*fitting, wanted or max(fitting)])
    device: Literal["cpu", "cuda"] = "cuda" if n_gpus else "cpu"
    devices = needs.gpus or needs.cpus
    if runtime.backend == "ray":
        _check_dashboard()
        return Capacity(concurrent, PLACEHOLDER_BUNDLE, device, runtime.threads, devices)
    threads = max(1, int(runtime.cpus_per_worker)) if n_cores is None else max(1, n_cores // concurrent)
    bundle = {"CPU": float(runtime.cpus_per_worker)} | ({"GPU": 1.0} if n_gpus else {})
    return Capacity(concurrent, bundle, device, runtime.threads or threads, devices)


def trial_plan(config: Config, *, n_gpus: float, n_cores: int | None) -> Plan:
    """The resources of one trial: those of its run or, inline, of its single process."""
    runtime = config.runtime
    if runtime.backend == "ray":
        return plan(config, n_gpus=n_gpus, n_cores=n_cores)
    if runtime.n_workers > 1:
        raise ConfigError(
            f"With runtime.backend=inline a trial is one process, but runtime.n_workers={runtime.n_workers}; set "
            f"runtime.n_workers=1, or runtime.backend=ray."
        )
    none = ProcessResources(0, 0, 0, 1)
    return Plan("separate", ProcessResources(1, runtime.cpus_per_worker, 1 if n_gpus else 0, 1), none, none)


def _check_dashboard() -> None:
    """Check for Ray's dashboard, whose service releases the workers of a stopped trial; else later trials hang."""
    try:
        list_nodes(limit=1, timeout=30)
    except Exception as error:
        raise ConfigError(
            "The Ray cluster has no dashboard, which Ray needs to release the resources of a stopped trial; start it "
            "with 'ray start --head --include-dashboard=true', or search with runtime.backend=inline."
        ) from error
