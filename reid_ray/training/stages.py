"""The stages of a run: first on a labelled source, where there is one, then on the data."""

from __future__ import annotations

from reid_ray.config import Config, SourceConfig
from reid_ray.methods import METHODS
from reid_ray.models import is_model_file
from reid_ray.training.rundir import RunDirectory


def source_runs(config: Config) -> list[Config]:
    """The runs on the source that this run begins from: none without a source, where its weights are a run's model, or
    where its method learns from the source beside the data.

    Each is a run of its own beside this one, NAME-source, with images of this run's data to forward.
    """
    source, weights = config.source, config.model.weights
    if source is None or METHODS[config.method.name].learns_source(config):
        return []
    if weights not in (None, "torchvision") and is_model_file(str(weights)):
        return []
    training = config.pretraining or config.training
    every = None if config.evaluation.every is None else 0
    tree = config.model_dump() | {
        "data": source.model_copy(update={"height": config.data.height, "width": config.data.width}).model_dump(),
        "target": config.data.model_dump(),
        "source": None,
        "pretraining": None,
        "method": SourceConfig().model_dump(),
        "training": training.model_copy(update={"precision": config.training.precision}).model_dump(),
        "labels": {"staleness": 0},
        "evaluation": config.evaluation.model_dump() | {"every": every, "at_start": False},
    }
    names = [f"{config.name}-source", *(f"{config.name}-source-{i + 1}" for i in range(1, n_starts(config)))]
    return [Config.model_validate(tree | {"name": name, "seed": config.seed + i}) for i, name in enumerate(names)]


def n_starts(config: Config) -> int:
    return METHODS[config.method.name].n_starts


def started_from(config: Config, runs: list[Config]) -> Config:
    """The run itself, to begin from the models of its source runs, if it has any."""
    files = [str(RunDirectory.of(run).model_file("last")) for run in runs]
    return METHODS[config.method.name].started_from(config, files) if files else config
