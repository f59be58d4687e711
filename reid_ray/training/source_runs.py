"""The stages on a source as runs of their own, so that several runs can begin from one source model."""

from __future__ import annotations

from collections.abc import Sequence

from reid_ray.config import Config, SourceConfig
from reid_ray.methods import stages_of
from reid_ray.training.rundir import RunDirectory


def source_runs(config: Config) -> list[Config]:
    """Runs that compute what the stages on the source of this run would; none where it has no such stages.

    Each is a run of its own next to this one, NAME-STAGE, with the recipe `source`.
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


def started_from(config: Config, runs: Sequence[Config]) -> Config:
    """The run itself, to begin from the models of its source runs, if it has any."""
    if not runs:
        return config
    files = tuple(str(RunDirectory.of(run).model_file("last")) for run in runs)
    weights = files if len(files) > 1 else files[0]
    model = config.model.model_copy(update={"weights": weights})
    return config.model_copy(update={"model": model, "source_stage": False})
