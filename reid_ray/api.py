"""`train`: the one call behind `reid-ray train` and behind notebooks."""

from __future__ import annotations

from collections.abc import Callable

from reid_ray.config import Config, with_absolute_paths
from reid_ray.data.images import Dataset
from reid_ray.data.readers import read_dataset
from reid_ray.errors import DataError
from reid_ray.methods import METHODS
from reid_ray.run import Run, load_run
from reid_ray.training.metrics import Event
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.stages import source_runs, started_from


def train(config: Config, *, listener: Callable[[Event], None] | None = None) -> Run:
    """Train, or go on with, the run that `config` describes, and open it.

    The data is read and the run directory checked before anything is written or started. The same call after a
    kill continues from the last checkpoint, and after the end returns at once.

    Args:
        config: from `load_config`.
        listener: called with every logged event, for progress displays.

    Raises:
        UserError: with one sentence, for anything the caller can mend.
        KeyboardInterrupt: after Ctrl-C; the run can be continued.
    """
    config = with_absolute_paths(config)
    earlier = source_runs(config)
    config = started_from(config, earlier)
    directory = RunDirectory.of(config)
    directory.check(config)
    stages = [stage for stage in (*earlier, config) if not RunDirectory.of(stage).is_complete(stage)]
    if directory.is_complete(config):
        stages = []
    datasets = [dataset_of(stage) for stage in stages]
    if config.runtime.backend == "ray":
        from reid_ray.runtime.run import train_on_ray  # Ray is slow to import, and not needed elsewhere

        for stage, dataset in zip(stages, datasets, strict=True):
            train_on_ray(stage, dataset, listener)
    elif stages:
        from reid_ray.training.inline import process_group, train_inline

        with process_group(config):  # one for all stages: torchrun's processes cannot meet twice
            for stage, dataset in zip(stages, datasets, strict=True):
                train_inline(stage, dataset, listener)
    return load_run(directory.path)


def dataset_of(config: Config) -> Dataset:
    """The data that a run would train on; `DataError` where it lacks the identities that the method learns from."""
    dataset, method = read_dataset(config.data), METHODS[config.method.name]
    if config.source is not None and method.learns_source(config):
        source = read_dataset(config.source)
        if not source.train.has_pids:
            raise DataError(
                f"{source.table.name} has no identities in its training split, which this method learns from; give "
                f"another source, or none."
            )
    if method.labels_source(config) == "truth" and not dataset.train.has_pids:
        raise DataError(
            f"{dataset.table.name} has no identities in its training split, which this method learns from; use "
            f"one that learns from clusters, such as method.mode=aware."
        )
    return dataset
