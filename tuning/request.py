"""The request of a search, and the search directory, which belongs to one request.

search.yaml       the request, resolved
study.journal     Optuna's journal: every trial, its values, how it ended
trials/ID/        run directories; `reid-ray report` and other commands work on them
final/ID/         runs that compare the winner with the recipe
trials.parquet    one row per trial
best.yaml         the winner as a recipe
report.html       everything, with plots
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from reid_ray.config import Config, Search, hashed_settings, with_absolute_paths
from reid_ray.config.loading import validate
from reid_ray.errors import ConfigError, RunError
from reid_ray.evaluation.protocols import protocol_of
from reid_ray.io.files import atomic_write, storage_errors
from reid_ray.io.lease import LEASE, hold, is_lease
from reid_ray.io.paths import RemotePath, as_path
from reid_ray.labels.sweep import Setting, parse_grid, swept_name
from reid_ray.training.rundir import leaf_changes
from reid_ray.tuning.spaces import Space, search_space

Objective: TypeAlias = Literal["label-free", "map", "hours"]

METRICS: dict[Objective, str] = {"label-free": "model_score", "map": "mAP", "hours": "hours"}
"""Objective → metric name."""

CHOICES: tuple[tuple[Objective, ...], ...] = (("label-free",), ("map",), ("label-free", "hours"), ("map", "hours"))

HOLDOUT = 0.25
"""Share of the training identities that a search by mAP holds out if `data.holdout` is not set."""

MIN_EPOCHS_TO_STOP = 10
"""Minimum epochs for early stopping: in shorter runs trials hardly differ yet."""


@dataclass(frozen=True)
class Request:
    """A search. Its directory is `config.output`/`name`.

    Attributes:
        name: of the search.
        config: the recipe for the final training of the winner; paths are absolute.
        space: keys to vary, and their ranges.
        objectives: the first selects the winner; `hours` may be the second.
        stop_early: trials that fall behind are stopped.
        sweep: label settings to try on the features of each trained model, in the format of `parse_grid`.
    """

    name: str
    config: Config
    space: Space
    objectives: tuple[Objective, ...] = ("label-free",)
    stop_early: bool = False
    sweep: tuple[str, ...] = ()

    @property
    def by_labels(self) -> bool:
        """Whether trials are evaluated with identities, on held-out people of the training split."""
        return self.objectives[0] == "map"


@dataclass(frozen=True)
class Budget:
    """When to stop; the same search can be continued with a larger budget.

    Attributes:
        trials: total number of trials; None: as many as `hours` allow.
        hours: total search time; trials that are still running are interrupted and can be resumed.
        concurrent: concurrent trials; None: as many as fit.
        top: number of trials to repeat with `seeds` more seeds, to choose the winner by the mean.
        compare: number of new seeds with which winner and recipe are trained and evaluated on the test split.
    """

    trials: int | None = 20
    hours: float | None = None
    concurrent: int | None = None
    top: int = 3
    seeds: int = 0
    compare: int = 0


def make_request(
    config: Config,
    *,
    name: str,
    wanted: Sequence[str] = (),
    objectives: Sequence[str] = ("label-free",),
    stop_early: Literal["auto", "yes", "no"] = "auto",
    sweep: Sequence[str] = (),
) -> Request:
    """Validate a request and fill in the defaults.

    Args:
        config: the recipe with its overrides.
        wanted: see `search_space`.
        stop_early: `auto`: if trials are evaluated during training, are long enough, and `hours` is not an objective.
        sweep: see `Request`; its keys are not searched.

    Raises:
        ConfigError: options that cannot be combined.
    """
    chosen = tuple(name for name in METRICS if name in objectives)
    if list(chosen) != list(objectives) or chosen not in CHOICES:
        raise ConfigError(
            f"--objective {' --objective '.join(objectives)} is invalid; use label-free or map, optionally "
            f"followed by hours."
        )
    by_labels, epochs = objectives[0] == "map", config.training.epochs
    if stop_early == "yes" and (not by_labels or len(objectives) > 1):
        raise ConfigError(
            "--stop-early yes needs --objective map alone: other objectives are known only at the end of a trial."
        )
    if by_labels and protocol_of(config.evaluation).primary != METRICS["map"]:
        raise ConfigError(f"--objective map needs a protocol with identities, not {config.evaluation.protocol}.")
    if sweep and by_labels:
        raise ConfigError("--sweep needs --objective label-free: mAP does not depend on the last labels.")
    config = with_absolute_paths(config)
    space = search_space(config, wanted)
    if sweep:
        parse_grid(sweep, Setting.of(config.labels))
    swept = {f"labels.{swept_name(text)}" for text in sweep}
    if wanted and swept & set(space):
        raise ConfigError(f"{', '.join(sorted(swept & set(space)))} is in both --search and --sweep; choose one.")
    space = {key: search for key, search in space.items() if key not in swept}
    if not space:
        raise ConfigError("There is nothing to search; name a key with --search KEY=LOW:HIGH.")
    early = stop_early == "yes" or (
        stop_early == "auto" and by_labels and len(objectives) == 1 and epochs >= MIN_EPOCHS_TO_STOP
    )
    return Request(name, config, space, chosen, early, tuple(sweep))


def trial_base(request: Request) -> Config:
    """Configuration of search trials: evaluated on held-out people of the training split, or not at all."""
    config = request.config
    if not request.by_labels:
        return _evaluated(config, None, config.data.holdout)
    return _evaluated(config, config.evaluation.every or 0, config.data.holdout or HOLDOUT)


def final_base(request: Request) -> Config:
    """Configuration of the final training: on all training images, evaluated once on the test split."""
    return _evaluated(request.config, 0, 0)


def _evaluated(config: Config, every: int | None, holdout: float) -> Config:
    evaluation = config.evaluation.model_copy(update={"every": every, "at_start": False})
    data = config.data.model_copy(update={"holdout": holdout})
    return config.model_copy(update={"evaluation": evaluation, "data": data})


@dataclass(frozen=True)
class SearchDirectory:
    """Paths of one search."""

    path: Path

    @classmethod
    def of(cls, request: Request) -> SearchDirectory:
        """The absolute path of this search; creates nothing. `ConfigError` if it is not on a file system."""
        if isinstance(as_path(request.config.output), RemotePath):
            raise ConfigError(
                f"A search appends to its journal, which {request.config.output} does not support; choose an "
                f"output=FOLDER on a file system."
            )
        return cls((Path(request.config.output).expanduser() / request.name).resolve())

    @property
    def request_file(self) -> Path:
        return self.path / "search.yaml"

    @property
    def journal(self) -> Path:
        return self.path / "study.journal"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def final(self) -> Path:
        return self.path / "final"

    @property
    def table(self) -> Path:
        return self.path / "trials.parquet"

    @property
    def best(self) -> Path:
        return self.path / "best.yaml"

    @property
    def _started(self) -> bool:
        """Whether a trial has been started."""
        return self.trials.is_dir() and any(self.trials.iterdir())

    def check(self, request: Request) -> None:
        """Raise `RunError` if the directory belongs to another search or holds something else."""
        if not self.request_file.exists():
            if self.path.exists() and (not self.path.is_dir() or not all(map(is_lease, self.path.iterdir()))):
                raise RunError(
                    f"{self.path} exists and is not a search directory; choose another --name, or remove it."
                )
            return
        if not self._started:  # no results to lose yet
            return
        changes = leaf_changes(_identity(read_request(self.path)), _identity(request))
        if changes:
            raise RunError(
                f"{self.path} holds another search ({'; '.join(changes[:3])}); choose another --name, or remove the "
                f"directory."
            )

    @contextmanager
    def owned(self, request: Request) -> Iterator[None]:
        """Create the directory, write the request, and lock the directory for the block.

        Raises:
            RunError: it cannot be written, belongs to another search, or is locked by another process.
        """
        self.check(request)
        with hold(self.path / LEASE, f"searching in {self.path}", self._progress):
            self._begin(request)
            yield

    def _progress(self) -> str:
        return f"{sum(entry.is_dir() for entry in self.trials.iterdir())} runs begun" if self._started else ""

    def _begin(self, request: Request) -> None:
        with storage_errors(self.path):
            self.trials.mkdir(parents=True, exist_ok=True)
        if not self._started:
            with atomic_write(self.request_file) as file:
                file.write(_written(request).encode())
            self.journal.unlink(missing_ok=True)  # of another request, or one that was refused


def read_request(path: Path) -> Request:
    """The request of a search directory; `RunError` if it cannot be read."""
    file = SearchDirectory(path).request_file
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        space = {
            key: Search(**{**search, "choices": tuple(search["choices"])}) for key, search in tree["space"].items()
        }
        config = validate(tree["config"], source=str(file))
        objectives, sweep = tuple(tree["objectives"]), tuple(tree["sweep"])
        return Request(tree["name"], config, space, objectives, tree["stop_early"], sweep)
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError, ConfigError) as error:
        raise RunError(
            f"{file} cannot be read as a search ({' '.join(str(error).split())}); it is damaged or from another "
            f"version. Choose another --name."
        ) from error


def _written(request: Request) -> str:
    return yaml.safe_dump(
        {
            "name": request.name,
            "objectives": list(request.objectives),
            "stop_early": request.stop_early,
            "sweep": list(request.sweep),
            "space": {key: asdict(search) | {"choices": list(search.choices)} for key, search in request.space.items()},
            "config": request.config.model_dump(mode="json"),
        },
        sort_keys=False,
        allow_unicode=True,
    )


def _identity(request: Request) -> dict[str, Any]:
    """Everything that must be equal for the trials of two requests to be comparable."""
    config = hashed_settings(request.config)
    config["training"]["epochs"] = request.config.training.epochs
    if request.by_labels:
        config["evaluation"]["every"] = request.config.evaluation.every
    return {
        **config,
        "space": {key: str(search) for key, search in request.space.items()},
        "objective": list(request.objectives),
        "stop_early": request.stop_early,
        "sweep": list(request.sweep),
    }
