"""CPUs, GPUs and threads of each process of a run, checked against the Ray cluster before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reid_ray.config import Config
from reid_ray.errors import ConfigError

TRAINER_SHARE = 0.6
"""GPU fraction of a trainer that shares a GPU with an extractor. More than 0.5, so no two trainers share a GPU."""


@dataclass(frozen=True)
class ProcessResources:
    """Number of processes of one kind, and the resources of each."""

    number: int
    cpus: float
    gpus: float
    threads: int


@dataclass(frozen=True)
class Plan:
    """Resources of all processes of a run. Ray Train's controller reserves nothing."""

    placement: Literal["separate", "colocated"]
    trainers: ProcessResources
    extractors: ProcessResources
    labellers: ProcessResources

    @property
    def cpus(self) -> float:
        return sum(share.number * share.cpus for share in (self.trainers, self.extractors, self.labellers))

    @property
    def gpus(self) -> float:
        """Whole GPUs; a shared one counts once."""
        shared = self.placement == "colocated"
        whole = self.trainers.number + (0 if shared else self.extractors.number)
        return whole if self.trainers.gpus else 0

    def describe(self) -> str:
        """The resources in words, for messages."""
        gpus = f" and {self.gpus:g} GPU{'s' if self.gpus != 1 else ''}" if self.gpus else ""
        who = ", ".join(
            f"{share.number} {name}{'s' if share.number != 1 else ''}"
            for name, share in (
                ("trainer", self.trainers),
                ("extractor", self.extractors),
                ("labeller", self.labellers),
            )
            if share.number
        )
        return f"{self.cpus:g} CPUs{gpus} ({who}, {self.placement})"


def plan(config: Config, *, n_gpus: float, n_cores: int | None) -> Plan:
    """The resources of a run.

    Args:
        n_gpus: GPUs to use, on all nodes together; 0 trains on CPUs.
        n_cores: CPU cores that the processes share on a local cluster; None on an existing cluster, where each process
            uses the CPUs that it reserves.

    Raises:
        ConfigError: an impossible placement.
    """
    runtime = config.runtime
    n_workers, n_extractors, n_labellers = runtime.n_workers, runtime.n_extractors, runtime.n_labellers
    take_turns = config.labels.staleness == 0 and not config.evaluation.overlap
    placement = runtime.placement
    if placement == "auto":
        apart = n_gpus >= n_workers + n_extractors if n_gpus else not take_turns
        placement = "separate" if apart else "colocated"
    shared = placement == "colocated"
    if shared and n_gpus and n_extractors > n_workers:
        raise ConfigError(
            f"With runtime.placement=colocated each extractor shares a trainer's GPU, but runtime.n_extractors="
            f"{n_extractors} is more than runtime.n_workers={n_workers}; lower it to {n_workers}."
        )
    at_once = n_workers + max(n_extractors, n_labellers)

    def share(number: int, *, own_cpus: bool, gpus: float) -> ProcessResources:
        reserved = runtime.cpus_per_worker if own_cpus else 0
        if n_cores is None:
            threads = max(1, int(runtime.cpus_per_worker))
        else:
            threads = max(1, n_cores // (number if shared and take_turns else at_once))
        return ProcessResources(number, reserved, gpus if n_gpus else 0, runtime.threads or threads)

    return Plan(
        placement,
        share(n_workers, own_cpus=True, gpus=TRAINER_SHARE if shared else 1),
        share(n_extractors, own_cpus=not shared, gpus=1 - TRAINER_SHARE if shared else 1),
        share(n_labellers, own_cpus=not shared, gpus=0),
    )


def check_fits(plan: Plan, cluster: dict[str, float]) -> None:
    """Raise `ConfigError` if the total resources of the cluster do not fit the plan."""
    missing = [
        f"{lack:g} more {name}{'s' if lack != 1 else ''}"
        for name, needed in (("CPU", plan.cpus), ("GPU", plan.gpus))
        if (lack := needed - cluster.get(name, 0)) > 0
    ]
    if missing:
        lower = "runtime.n_workers, runtime.n_extractors, runtime.n_labellers or runtime.cpus_per_worker"
        share = ", use runtime.placement=colocated" if plan.placement == "separate" else ""
        raise ConfigError(
            f"The run needs {plan.describe()}, but the cluster lacks {' and '.join(missing)}; lower {lower}{share}, or "
            f"add nodes."
        )
