"""Source stages as separate runs, so that several runs can start from one source model."""

from __future__ import annotations

from collections.abc import Sequence

from reid_ray.config import RUN_PREFIX, Config, SourceConfig
from reid_ray.errors import RunError
from reid_ray.io.paths import as_path
from reid_ray.methods import stages_of
from reid_ray.training.rundir import RunDirectory


def source_runs(config: Config) -> list[Config]:
    """Separate runs that are equivalent to the source stages of this run; empty if it has none.

    Each is in a directory next to this one, NAME-STAGE, and uses the recipe `source`.
    """
    tree = config.model_dump()
    size = {"height": config.data.height, "width": config.data.width}
    every = None if config.evaluation.every is None else 0
    return [
        Config.model_validate(
            tree
            | {
                "name": f"{config.name}-{stage.name}",
                "seed": config.seed + stage.seed_offset,
                "data": tree["source"] | size,
                "source": None,
                "target": tree["data"],
                "method": SourceConfig().model_dump(),
                "training": tree["training"] | stage.config.model_dump(),
                "stages": {},
                "labels": {},
                "evaluation": tree["evaluation"] | {"every": every, "at_start": False},
            }
        )
        for stage in stages_of(config)[:-1]
        if stage.streams[stage.primary].data == "source"
    ]


def with_models_of_runs(config: Config) -> Config:
    """The configuration with each `run:PATH` in `model.weights` replaced by the exported model of that run.

    Raises:
        RunError: the run does not exist, or has not exported a model yet.
    """

    def file_of(weights: str | None) -> str | None:
        if weights is None or not weights.startswith(RUN_PREFIX):
            return weights
        path = as_path(weights.removeprefix(RUN_PREFIX))
        directory = RunDirectory(path)
        if not directory.config_file.exists():
            raise RunError(f"model.weights={weights}: {path} is not a run directory; it has no config.yaml.")
        file = directory.model_file("last")
        if not file.exists():
            raise RunError(f"model.weights={weights}: this run has no model yet; it exports one after its first epoch.")
        return str(file)

    weights = config.model.weights
    found = tuple(map(file_of, weights)) if isinstance(weights, tuple) else file_of(weights)
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": found})})


def started_from(config: Config, runs: Sequence[Config]) -> Config:
    """The configuration of the run itself, started from the models of its source runs, if it has any."""
    if not runs:
        return config
    files = tuple(str(RunDirectory.of(run).model_file("last")) for run in runs)
    weights = files if len(files) > 1 else files[0]
    model = config.model.model_copy(update={"weights": weights})
    return config.model_copy(update={"model": model, "source_stage": False})
