"""`train`: the one call behind `reid-ray train` and behind notebooks."""

from __future__ import annotations

from collections.abc import Callable

from reid_ray.config import Config, with_absolute_paths
from reid_ray.data.readers import read_dataset
from reid_ray.errors import DataError
from reid_ray.methods import METHODS
from reid_ray.run import Run, load_run
from reid_ray.training.metrics import Event
from reid_ray.training.rundir import RunDirectory


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
    directory = RunDirectory.of(config)
    directory.check(config)
    if directory.is_complete(config):
        return load_run(directory.path)
    dataset = read_dataset(config.data)
    if METHODS[config.method.name].labels_source(config) == "truth" and not dataset.train.has_pids:
        raise DataError(
            f"{dataset.table.name} has no identities in its training split, which this method learns from; use "
            f"method.mode=aware or agnostic."
        )
    if config.runtime.backend == "ray":
        from reid_ray.runtime.run import train_on_ray  # Ray is slow to import, and not needed elsewhere

        train_on_ray(config, dataset, listener)
    else:
        from reid_ray.training.inline import train_inline

        train_inline(config, dataset, listener)
    return load_run(directory.path)
