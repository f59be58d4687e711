"""Trackers hold every number of metrics.jsonl exactly once, after kills and truncated logs too.

What TensorBoard and MLflow hold is read back with their own readers, and compared with the lines of the log.
"""

import json
import math
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from small_runs import begun_directory

from reid_ray.errors import ConfigError
from reid_ray.io.paths import as_path
from reid_ray.reports import trackers
from reid_ray.reports.trackers import MLflow, TensorBoard, make_trackers
from reid_ray.reports.tracking import Feed, missing, points, settings
from reid_ray.run import load_run
from reid_ray.training.metrics import MetricsLog


def numbers_of_log(path, iterations):
    """How often (tag, step, milliseconds, value) occurs in a log of one stage, computed field by field."""
    found = []
    for event in map(json.loads, path.read_text().splitlines()):
        kind, at = event.pop("event"), round(1000 * event.pop("time"))
        if kind in ("start", "end"):
            continue
        epoch, global_step = event.pop("epoch"), event.pop("global_step")
        step = {"refresh": epoch * iterations, "epoch": (epoch + 1) * iterations, "evaluate": epoch * iterations}
        assert step.setdefault("step", global_step) == global_step
        assert step[kind] == global_step
        for name in ("stage", "step", "n_steps"):
            event.pop(name, None)
        for name in ("terms", "sizes"):
            event |= {f"{name}/{key}": value for key, value in event.pop(name, {}).items()}
        event |= {f"rates/{i}": rate for i, rate in enumerate(event.pop("rates", []))}
        for field, value in event.items():
            if value is not None and not isinstance(value, str):
                found.append((f"{kind}/{field.replace('129+', '129 or more')}", step[kind], at, float(value)))
    return Counter(found)


class TensorBoardReader:
    """The content according to TensorBoard's own reader; values are float32."""

    def __init__(self, folder):
        self.folder = folder

    def tracker(self):
        return TensorBoard(self.folder)

    @staticmethod
    def rounded(value):
        return float(np.float32(value))

    def opened(self):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        return EventAccumulator(str(self.folder), size_guidance={"scalars": 0}).Reload()

    def points(self):
        return self.scalars(self.opened())

    @staticmethod
    def scalars(found):
        return Counter(
            (tag, scalar.step, round(1000 * scalar.wall_time), scalar.value)
            for tag in found.Tags()["scalars"]
            for scalar in found.Scalars(tag)
        )


class MLflowReader:
    """The content of the only run according to MLflow's client."""

    def __init__(self, uri):
        self.uri = uri

    def tracker(self):
        return MLflow(self.uri)

    @staticmethod
    def rounded(value):
        return value

    @property
    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def run(self):
        experiment = self.client.get_experiment_by_name("reid_ray")
        (run,) = self.client.search_runs([experiment.experiment_id])
        return run

    def points(self):
        run = self.run()
        return Counter(
            (tag, metric.step, metric.timestamp, metric.value)
            for tag in run.data.metrics
            for metric in self.client.get_metric_history(run.info.run_id, tag)
        )


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty MLflow database, which takes seconds to create."""
    mlflow = pytest.importorskip("mlflow")
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file.read_bytes()


@pytest.fixture(params=["tensorboard", "mlflow"])
def reader(request, tmp_path):
    pytest.importorskip(request.param)
    if request.param == "tensorboard":
        return TensorBoardReader(tmp_path / "events")
    (tmp_path / "mlflow.db").write_bytes(request.getfixturevalue("database"))
    return MLflowReader(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def small(tiny):
    """A started run of 2 epochs of 4 steps."""
    return load_run(begun_directory(tiny("name=small")).path)


@pytest.fixture
def log(small):
    """The log of the run, with a clock that advances one second per event."""
    return MetricsLog(small.directory.metrics_file)


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    seconds = iter(range(1_700_000_000, 1_800_000_000))
    clock = SimpleNamespace(time=lambda: next(seconds) + 0.123)
    monkeypatch.setattr("reid_ray.training.metrics.time", clock)


def write_epoch(log, epoch, *, steps=4, loss=1.5):
    labels = {"degenerate": False, "n_clusters": 7, "ari": None, "sizes": {"1": 2, "129+": 1}, "rates": [3.5, 4]}
    log.write("refresh", stage="main", epoch=epoch, global_step=4 * epoch, **labels)
    for step in range(1, steps + 1):
        place = {"stage": "main", "epoch": epoch, "step": step, "n_steps": 4, "global_step": 4 * epoch + step}
        log.write("step", **place, lr=3.5e-4, loss=loss / step, terms={"hard": 0.123456, "soft": math.nan})
    if steps == 4:
        done = 4 * (epoch + 1)
        log.write("epoch", stage="main", epoch=epoch, global_step=done, train_seconds=1.25, images_per_second=51.2)
        log.write("evaluate", stage="main", epoch=epoch + 1, global_step=done, mAP=0.2468, R1=0.5)


def held(reader, run):
    """Assert that the tracker holds the numbers of the log, each once."""
    expected = numbers_of_log(run.directory.metrics_file, iterations=4)
    rounded = Counter({(*where, reader.rounded(value)): n for (*where, value), n in expected.items()})
    assert reader.points() == rounded
    assert set(rounded.values()) <= {1}
    return len(rounded)


def test_all_curves_share_the_x_axis():
    """The x axis is the number of completed steps over all stages."""
    lines = [
        {"event": "start", "time": 1.0, "stage": "main", "epoch": 1, "step": 0, "global_step": 150},
        {"event": "refresh", "time": 1.0, "stage": "main", "epoch": 1, "global_step": 150, "n_clusters": 7},
        {"event": "step", "time": 2.0, "stage": "main", "epoch": 1, "step": 10, "n_steps": 100, "global_step": 160,
         "loss": 0.5, "terms": {"hard": 2}, "lrs": {"a": 0.1, "b": 0.2}, "losses": {"a": 0.25}},
        {"event": "epoch", "time": 3.0, "stage": "main", "epoch": 1, "global_step": 250, "images_per_second": 50.0},
        {"event": "evaluate", "time": 4.0, "stage": "main", "epoch": 2, "global_step": 250, "mAP": 0.25},
        {"event": "end", "time": 5.0, "stage": "main", "epochs": 2},
    ]  # fmt: skip
    lines[1] |= {"ari": None, "degenerate": True}
    assert points(lines) == [
        ("refresh/n_clusters", 150, 1000, 7.0),
        ("refresh/degenerate", 150, 1000, 1.0),
        ("step/loss", 160, 2000, 0.5),
        ("step/terms/hard", 160, 2000, 2.0),
        ("step/lrs/a", 160, 2000, 0.1),
        ("step/lrs/b", 160, 2000, 0.2),
        ("step/losses/a", 160, 2000, 0.25),
        ("epoch/images_per_second", 250, 3000, 50.0),
        ("evaluate/mAP", 250, 4000, 0.25),
    ]


def test_names_of_updates_of_several_optimizers():
    """The log joins them with a plus, which MLflow does not allow in names; sizes that end in one differ."""
    line = {"event": "step", "time": 1.0, "global_step": 3, "losses": {"body+head": 0.5}, "sizes": {"129+": 1}}
    first, second = (point.tag for point in points([line]))
    assert re.fullmatch(r"step/losses/body[ \w.:-]+head", first)
    assert "or more" not in first
    assert second == "step/sizes/129 or more"


def test_of_a_step_logged_twice_the_later_counts():
    twice = [{"event": "step", "time": t, "global_step": 3, "loss": 1.0 + t} for t in (1.0, 2.0)]
    assert points(twice) == [("step/loss", 3, 2000, 3.0)]


def test_missing_points():
    assert missing([1, 2, 3], {2}) == [1, 3]
    assert missing([1, 2, 3], {2, 4}) is None


def test_settings_are_numbers_and_strings(tiny):
    found = settings(tiny("model.branches=[{pooling: avg}]"))
    assert (found["training.epochs"], found["name"], found["data.root"]) == (2, "demo", "null")
    assert json.loads(found["model.branches"])[0]["pooling"] == "avg"
    assert all(isinstance(value, bool | int | float | str) for value in found.values())


def test_finished_run_is_exported_completely(finished_run, reader):
    for _ in range(2):  # the second is another process, as far as trackers can tell
        feed = Feed(finished_run, reader.tracker())
        feed.update()
        assert feed.finished
    assert held(reader, finished_run) == feed.n_points > 50


def test_run_is_followed(small, log, reader):
    feed = Feed(small, reader.tracker())
    feed.update()
    assert feed.n_points == 0
    log.write("start", stage="main", epoch=0, step=0)
    for epoch in range(2):
        write_epoch(log, epoch)
        feed.update()
        assert not feed.finished
        assert held(reader, small) == feed.n_points
    log.write("end", epochs=2)
    feed.update()
    assert feed.finished
    held(reader, small)


@pytest.mark.parametrize("same_process", [True, False])
@pytest.mark.parametrize("kept", ["nothing", "some"])
def test_run_with_a_truncated_log(small, log, reader, same_process, kept):
    log.write("start", stage="main", epoch=0, step=0)
    position = log.position if kept == "some" else 0
    write_epoch(log, 0)
    feed = Feed(small, reader.tracker())
    feed.update()
    n_before = held(reader, small)
    log.rewind(position)
    log.write("start", stage="main", epoch=0, step=0)
    write_epoch(log, 0, steps=2, loss=2.5)
    if not same_process and kept == "some":  # cut back to nothing it is another run for those who have not seen it
        feed = Feed(small, reader.tracker())
    feed.update()
    assert held(reader, small) < n_before


def test_open_tensorboard_sees_a_truncated_log(small, log, tmp_path, monkeypatch):
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    seconds = iter(range(1_700_000_000, 1_800_000_000))  # names of files tell their order by the second only
    monkeypatch.setattr(writer, "time", SimpleNamespace(time=lambda: next(seconds)))
    reader = TensorBoardReader(tmp_path / "events")
    feed = Feed(small, reader.tracker())
    write_epoch(log, 0)
    feed.update()
    seen = reader.opened()
    log.rewind(0)
    write_epoch(log, 0, steps=2, loss=2.5)
    feed.update()
    assert reader.scalars(seen.Reload()) == reader.points()
    held(reader, small)


def test_run_restarted_before_its_first_point(small, log, reader):
    log.write("start", stage="main", epoch=0, step=0)
    feed = Feed(small, reader.tracker())
    feed.update()
    log.rewind(0)
    log.write("start", stage="main", epoch=0, step=0)
    feed.update()
    write_epoch(log, 0)
    Feed(small, reader.tracker()).update()
    held(reader, small)


def test_killed_while_writing_events(small, log, tmp_path):
    pytest.importorskip("tensorboard")
    reader = TensorBoardReader(tmp_path / "events")
    log.write("start", stage="main", epoch=0, step=0)
    write_epoch(log, 0)
    Feed(small, reader.tracker()).update()
    (events,) = reader.folder.iterdir()
    events.write_bytes(events.read_bytes()[:-5])
    others = reader.folder / "events.out.tfevents.1.elsewhere"
    others.touch()
    write_epoch(log, 1)
    Feed(small, reader.tracker()).update()
    held(reader, small)
    assert others.exists()
    assert events.stat().st_size == 0  # not gone: a TensorBoard that is open would wait there for ever
    Feed(small, reader.tracker()).update()
    held(reader, small)
    assert not events.exists()


def test_killed_between_two_requests(small, log, database, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "METRICS_AT_ONCE", 5)
    (tmp_path / "mlflow.db").write_bytes(database)
    reader = MLflowReader(f"sqlite:///{tmp_path / 'mlflow.db'}")
    log.write("start", stage="main", epoch=0, step=0)
    write_epoch(log, 0)
    tracker = reader.tracker()
    monkeypatch.setattr(tracker, "_log", dying(tracker._log))
    with pytest.raises(KeyboardInterrupt):
        Feed(small, tracker).update()
    assert 0 < len(reader.points()) < 20
    first = reader.run()
    write_epoch(log, 1)
    Feed(small, reader.tracker()).update()
    held(reader, small)
    assert reader.run().info.run_id == first.info.run_id


def dying(log):
    """`MLflow._log` of a process killed after eight points."""

    def half(points, params):
        log(points[:8], params)
        raise KeyboardInterrupt

    return half


def test_settings_and_state_in_mlflow(small, log, database, tmp_path):
    (tmp_path / "mlflow.db").write_bytes(database)
    reader = MLflowReader(f"sqlite:///{tmp_path / 'mlflow.db'}")
    log.write("start", stage="main", epoch=0, step=0)
    write_epoch(log, 0)
    Feed(small, reader.tracker()).update()
    first = reader.run()
    assert first.info.run_name == "small"
    assert first.info.status == "RUNNING"
    assert first.info.start_time == 1_700_000_000_123
    assert first.data.tags["reid_ray.path"] == str(small.path)
    assert first.data.params["training.epochs"] == "2"
    assert len(first.data.params) == len(settings(small.config)) > 100
    reader.client.set_tag(first.info.run_id, "mine", "kept")
    text = small.directory.config_file.read_text().replace("  epochs: 2", "  epochs: 1")
    small.directory.config_file.write_text(text)
    log.write("end", epochs=1)
    Feed(load_run(small.path), reader.tracker()).update()
    last = reader.run()
    assert (last.data.params["training.epochs"], last.data.tags["mine"]) == ("1", "kept")
    assert (last.info.status, last.info.end_time) == ("FINISHED", 1_700_000_008_123)
    held(reader, small)


def test_settings_in_tensorboard(small, log, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data

    log.write("start", stage="main", epoch=0, step=0)
    reader = TensorBoardReader(tmp_path / "events")
    Feed(small, reader.tracker()).update()
    found = reader.opened().SummaryMetadata(SESSION_START_INFO_TAG)
    hparams = parse_session_start_info_plugin_data(found.plugin_data.content).hparams
    assert set(hparams) == set(settings(small.config))
    assert hparams["training.epochs"].number_value == 2
    assert hparams["method.name"].string_value == "ice"


def test_run_in_an_object_store(small, log, bucket, tmp_path):
    pytest.importorskip("tensorboard")
    write_epoch(log, 0)
    for file in (small.directory.config_file, small.directory.metrics_file):
        as_path(f"{bucket}/runs/small/{file.name}").write_bytes(file.read_bytes())
    run = load_run(f"{bucket}/runs/small")
    with pytest.raises(ConfigError, match="--out FOLDER"):
        make_trackers([run], "tensorboard", None)
    (tracker,) = make_trackers([run], "tensorboard", str(tmp_path))
    Feed(run, tracker).update()
    held(TensorBoardReader(tmp_path / "small"), small)


def test_folders_of_event_files(small, tmp_path):
    pytest.importorskip("tensorboard")
    assert [tracker.where for tracker in make_trackers([small], "tensorboard", None)] == [
        str(small.path / "tensorboard")
    ]
    assert make_trackers([small], "tensorboard", str(tmp_path))[0].where == str(tmp_path / "small")
    with pytest.raises(ConfigError, match="Two of these runs"):
        make_trackers([small, small], "tensorboard", str(tmp_path))
    with pytest.raises(ConfigError, match="--out FOLDER"):
        make_trackers([small], "tensorboard", "s3://bucket/events")
