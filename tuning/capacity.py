"""What a trial takes of a cluster, and how many fit: counted before anything starts, so that none waits for ever.

With `runtime.backend=ray` a trial's trainers and pool are placed by the run itself, outside the little that Ray Tune
reserves for the trial. Ray Tune does not see them; that is why their number is what limits the trials at a time. With
`runtime.backend=inline` the trial's own process is the run.
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
"""What Ray Tune reserves for a trial whose work is done by others: it wants something, and CPUs would be missing."""


@dataclass(frozen=True)
class Capacity:
    """What each trial has, and how many there are at a time.

    Attributes:
        concurrent: trials at the same time.
        bundle: what Ray Tune reserves for a trial.
        device: of the trial's processes.
        threads: of each, None where the run decides.
        devices: GPUs of a trial, or its CPUs where it has none.
    """

    concurrent: int
    bundle: dict[str, float]
    device: Literal["cpu", "cuda"]
    threads: int | None
    devices: float

    def placement(self) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([dict(self.bundle)])


def cpus_to_start(config: Config, wanted: int | None, n_cores: int) -> int:
    """CPUs that a cluster of our own promises: enough for the trials at a time that are asked for.

    Args:
        wanted: trials at a time; None: as many as the cores hold, and at least one.
        n_cores: of this machine.
    """
    each = trial_plan(config, n_gpus=0, n_cores=1).cpus
    return max(n_cores, math.ceil(each * (wanted or max(1, int(n_cores // each)))))


def make_capacity(config: Config, wanted: int | None, cluster: dict[str, float], n_cores: int | None) -> Capacity:
    """How the trials of a search fit in a cluster.

    Args:
        config: of the trials.
        wanted: trials at a time; None: as many as fit.
        cluster: the cluster's total resources.
        n_cores: of this machine, where the cluster is our own; None where one was joined.

    Raises:
        ConfigError: not even one trial fits, or the cluster cannot free what a stopped trial held.
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
    """The resources of one trial: those of its run, or of the one process that it is."""
    runtime = config.runtime
    if runtime.backend == "ray":
        return plan(config, n_gpus=n_gpus, n_cores=n_cores)
    if runtime.n_workers > 1:
        raise ConfigError(
            f"With runtime.backend=inline a trial is one process, and runtime.n_workers={runtime.n_workers}; set "
            f"runtime.n_workers=1, or runtime.backend=ray."
        )
    none = ProcessResources(0, 0, 0, 1)
    return Plan("separate", ProcessResources(1, runtime.cpus_per_worker, 1 if n_gpus else 0, 1), none, none)


def _check_dashboard() -> None:
    """Ray frees the workers of a trial that was stopped by a service of its dashboard; without, later trials hang."""
    try:
        list_nodes(limit=1, timeout=30)
    except Exception as error:
        raise ConfigError(
            "The Ray cluster has no dashboard, and without one Ray does not free what a stopped trial held; start it "
            "with 'ray start --head --include-dashboard=true', or search with runtime.backend=inline."
        ) from error
