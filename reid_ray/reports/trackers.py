"""Trackers for TensorBoard and MLflow. Both packages are optional and imported on use."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from reid_ray.errors import ConfigError, StorageError
from reid_ray.io.files import first_line
from reid_ray.io.paths import as_path
from reid_ray.reports.tracking import Point, Subject, Tracker, missing
from reid_ray.run import Run

FILE_SUFFIX = ".reid_ray"
"""Suffix of our event files, which are emptied for a new start."""

IDENTITY_TAG = "reid_ray.run"
PATH_TAG = "reid_ray.path"

METRICS_AT_ONCE = 1000
PARAMS_AT_ONCE = 100
PARAM_LENGTH = 6000
"""Limits of MLflow: items per request, and characters per parameter."""


def make_trackers(runs: Sequence[Run], to: str, out: str | None) -> list[Tracker]:
    """Create a tracker per run; nothing is written yet.

    Args:
        to: `tensorboard` or `mlflow`.
        out: for TensorBoard a folder with a subfolder per run; default: `tensorboard` in each run directory.
            For MLflow the tracking URI; by default the one that MLflow itself would take.

    Raises:
        ConfigError: no such program, or not installed; a run in an object store without a folder; two runs in one.
    """
    if to not in ("tensorboard", "mlflow"):
        raise ConfigError(f"Cannot export to '{to}'; use --to tensorboard or --to mlflow.")
    if to == "mlflow":
        mlflow = _imported("mlflow", "MLflow")
        uri = out or mlflow.get_tracking_uri()
        return [MLflow(uri) for _ in runs]
    _imported("tensorboard", "TensorBoard")
    folders = [_event_folder(run, out) for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(
                f"Two of these runs would be written to {folder}; export them separately, with different --out."
            )
    return [TensorBoard(folder) for folder in folders]


class TensorBoard:
    """A folder of TensorBoard event files, which each process writes from scratch.

    Values are stored in float32.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: set[Point] = set()
        self._writer: Any = None

    @property
    def where(self) -> str:
        return str(self._folder)

    def show(self, subject: Subject, points: Sequence[Point]) -> None:
        """Make the tracker hold exactly these points.

        Raises:
            StorageError: the folder cannot be written.
        """
        new = missing(points, self._known) if self._writer else None
        with self._reported():
            if new is None:
                self._begin(subject)
                new = list(points)
            for (step, milliseconds), group in groupby(new, lambda point: point[1:3]):
                values = [{"tag": point.tag, "simple_value": point.value} for point in group]
                self._write(milliseconds, step, summary={"value": values})
            self._writer.flush()
        self._known.update(new)

    def _begin(self, subject: Subject) -> None:
        """Replace existing event files by a new one with the settings of the run."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._writer:
            self._writer.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob(f"events.out.tfevents.*{FILE_SUFFIX}"):
            _empty(old)
        self._known = set()
        self._writer = EventFileWriter(str(self._folder), filename_suffix=FILE_SUFFIX)
        # Makes an open TensorBoard discard what it has read.
        self._write(subject.started, 0, session_log={"status": "START"})
        pb = hparams_pb(subject.settings, trial_id=subject.identity, start_time_secs=subject.started / 1000)
        self._write(subject.started, 0, summary=pb)

    def _write(self, milliseconds: int, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=milliseconds / 1000, step=step, **content))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"Cannot write {self._folder} ({error.strerror or error}); free space, or choose another --out."
            ) from error


class MLflow:
    """An MLflow run, identified by a tag with the identity of our run.

    MLflow can neither remove a point nor change a parameter. If that is necessary, its run is deleted (MLflow can
    restore it), and a new one is created with the same name and tags. The experiment is MLFLOW_EXPERIMENT_NAME, by
    default `reid_ray`.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: Any = None
        self._run_id: str | None = None
        self._tags: dict[str, str] = {}
        self._params: dict[str, str] = {}
        self._known: set[Point] = set()

    @property
    def where(self) -> str:
        return self._uri

    def show(self, subject: Subject, points: Sequence[Point]) -> None:
        """Make the tracker hold exactly these points.

        Raises:
            StorageError: MLflow does not answer or refuses.
        """
        params = _params(subject)
        with self._reported():
            if self._client is None:
                self._find(subject)
            fits = self._tags.get(IDENTITY_TAG) == subject.identity and self._params.items() <= params.items()
            new = missing(points, self._known) if fits else None
            if new is None:
                self._begin(subject)
                new = list(points)
            self._log(new, {key: value for key, value in params.items() if key not in self._params})
            if subject.ended is not None:
                self._client.set_terminated(self._run_id, "FINISHED", subject.ended)
        self._params = params
        self._known.update(new)

    def _find(self, subject: Subject) -> None:
        """Load the state of an earlier process, if any."""
        from mlflow import MlflowClient

        client = MlflowClient(self._uri)
        experiment = client.get_experiment_by_name(_experiment_name())
        query = f"tags.`{IDENTITY_TAG}` = '{subject.identity}'"
        for run in client.search_runs([experiment.experiment_id], query, max_results=1) if experiment else ():
            self._run_id, self._tags, self._params = run.info.run_id, run.data.tags, run.data.params
            for tag in run.data.metrics:
                for metric in client.get_metric_history(run.info.run_id, tag):
                    self._known.add(Point(tag, metric.step, metric.timestamp, metric.value))
        self._client = client

    def _begin(self, subject: Subject) -> None:
        """Create a run, replacing the previous one, if any."""
        tags = {"mlflow.runName": subject.name}
        if self._run_id:
            tags |= self._client.get_run(self._run_id).data.tags
            self._client.delete_run(self._run_id)
        self._tags = tags | {IDENTITY_TAG: subject.identity, PATH_TAG: subject.path}
        experiment = self._client.get_experiment_by_name(_experiment_name())
        place = experiment.experiment_id if experiment else self._client.create_experiment(_experiment_name())
        self._run_id = self._client.create_run(place, subject.started, self._tags).info.run_id
        self._params, self._known = {}, set()

    def _log(self, points: Sequence[Point], params: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param

        for some in _chunks([Param(*item) for item in params.items()], PARAMS_AT_ONCE):
            self._client.log_batch(self._run_id, params=some)
        metrics = [Metric(point.tag, point.value, point.milliseconds, point.step) for point in points]
        for some in _chunks(metrics, METRICS_AT_ONCE):
            self._client.log_batch(self._run_id, metrics=some)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            reason = first_line(error).partition(". ")[0]
            raise StorageError(
                f"MLflow at {self._uri} fails: {reason}; check --out, which is a tracking URI such as "
                f"sqlite:///mlflow.db or http://HOST:5000."
            ) from error


def _imported(module: str, title: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"Exporting to {title} needs {module}, which is not installed; pip install 'reid-ray[track]'."
        ) from error


def _event_folder(run: Run, out: str | None) -> Path:
    folder = run.path / "tensorboard" if out is None else as_path(out) / run.config.name
    if isinstance(folder, Path):
        return folder
    raise ConfigError(
        f"TensorBoard appends to its files, which the object store of {folder} does not support; pass a local folder "
        f"as --out FOLDER."
    )


def _empty(events: Path) -> None:
    """Empty a file, or remove an empty one: an open TensorBoard cannot continue from a removed file."""
    if events.stat().st_size:
        os.truncate(events, 0)
    else:
        events.unlink()


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "reid_ray")


def _params(subject: Subject) -> dict[str, str]:
    """The settings as short strings, for MLflow."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in subject.settings.items()}
    return {key: text[:PARAM_LENGTH] for key, text in texts.items()}


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
