"""What a run asks of a Ray cluster, and whether the cluster has it, before anything is started."""

from __future__ import annotations

from dataclasses import dataclass

from reid_ray.config import RuntimeConfig
from reid_ray.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """CPUs and GPUs of a run's processes: trainers, extractors, labellers."""

    n_workers: int
    n_extractors: int
    n_labellers: int
    cpus_per_process: float
    gpus_per_process: float

    @property
    def cpus(self) -> float:
        return self.cpus_per_process * (self.n_workers + self.n_extractors + self.n_labellers)

    @property
    def gpus(self) -> float:
        return self.gpus_per_process * (self.n_workers + self.n_extractors)

    def describe(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        actors = f"{self.n_extractors} extractors and {self.n_labellers} labellers"
        return f"{self.cpus:g} CPUs{gpus} ({self.n_workers} trainers, {actors}, {self.cpus_per_process:g} CPUs each)"


def plan(runtime: RuntimeConfig, *, n_gpus: float) -> Plan:
    """The resources of a run where `n_gpus` are to be used (0: none).

    Every trainer and every extractor has a GPU of its own; a single GPU is shared by one of each, which take turns.
    """
    share = 1.0 if n_gpus else 0.0
    if n_gpus == 1 and runtime.n_workers == runtime.n_extractors == 1:
        share = 0.5
    return Plan(runtime.n_workers, runtime.n_extractors, runtime.n_labellers, runtime.cpus_per_worker, share)


def check_fits(plan: Plan, cluster: dict[str, float]) -> None:
    """Raise `ConfigError` with one sentence where a cluster's total resources cannot hold the plan."""
    missing = [
        f"{needed - cluster.get(name, 0):g} more {name}s"
        for name, needed in (("CPU", plan.cpus), ("GPU", plan.gpus))
        if needed > cluster.get(name, 0)
    ]
    if missing:
        raise ConfigError(
            f"The run needs {plan.describe()}, and the cluster lacks {' and '.join(missing)}; lower runtime.n_workers, "
            f"runtime.n_extractors, runtime.n_labellers or runtime.cpus_per_worker, or add nodes."
        )
