"""`train`: the function behind `reid-ray train`, and the API for notebooks."""

from __future__ import annotations

from collections.abc import Callable

from reid_ray.config import Config, with_absolute_paths
from reid_ray.data.images import Dataset
from reid_ray.data.readers import read_dataset
from reid_ray.methods import METHODS, stages_of
from reid_ray.run import Run, load_run
from reid_ray.training.checks import check_label_settings, check_tables
from reid_ray.training.corrections import table_constraints
from reid_ray.training.datasets import MAIN, read_datasets
from reid_ray.training.metrics import Event
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.source_runs import with_models_of_runs


def train(config: Config, *, listener: Callable[[Event], None] | None = None) -> Run:
    """Train, or resume, the run that `config` describes, and open it.

    The data is read and the run directory checked before anything is written or started. Repeat the call to resume an
    interrupted run from its last checkpoint; for a finished run it returns at once.

    Args:
        config: from `load_config`.
        listener: called with every logged event, for progress displays.

    Raises:
        UserError: a one-line message, for any mistake that the user can fix.
        KeyboardInterrupt: after Ctrl-C; the run can be resumed.
    """
    config, datasets = prepare(config)
    directory = RunDirectory.of(config)
    directory.check(config)
    if directory.is_complete(config):
        return load_run(directory.path)
    if config.runtime.backend == "ray":
        from reid_ray.runtime.driver import train_on_ray  # slow to import, and not needed otherwise

        train_on_ray(config, datasets, listener)
    else:
        from reid_ray.training.inline import train_inline

        train_inline(config, datasets, listener)
    return load_run(directory.path)


def prepare(config: Config) -> tuple[Config, dict[str, Dataset]]:
    """The resolved configuration of a run, and its datasets by section of the configuration.

    Paths become absolute, and the method fills in settings that follow from the data.

    Raises:
        DataError: the data cannot be read, or lacks identities or columns that a stage needs.
        DataError: the label constraints are invalid or contradict one another.
        ConfigError: label settings require more images than there are.
    """
    config = with_absolute_paths(with_models_of_runs(config))
    main = read_dataset(config.data)
    config = METHODS[config.method.name].resolve(config, main.train)
    datasets = read_datasets(config, {MAIN: main})
    check_tables(stages_of(config), datasets, config)
    check_label_settings(stages_of(config), datasets, config.labels)
    if config.labels.constraints is not None:
        table_constraints(config.labels.constraints, config.labels, main.train)
    return config, datasets
