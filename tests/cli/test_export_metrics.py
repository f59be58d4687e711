"""`reid-ray export-metrics` follows runs until they end, and refuses bad arguments with a one-line message."""

import sys
from types import SimpleNamespace

import pytest
from small_processes import assert_refused
from small_runs import begun_directory

from reid_ray.cli import main
from reid_ray.training.metrics import MetricsLog


@pytest.fixture
def command(capsys):
    """Run `reid-ray export-metrics`; return the exit code and the output on one line."""

    def run(*arguments):
        try:
            main(["export-metrics", *map(str, arguments)])
        except SystemExit as ended:
            code = ended.code or 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return code, " ".join((captured.err + captured.out).split())

    return run


@pytest.fixture
def small(tiny):
    """`small(name)`: the directory and the log of a run of 2 epochs that has written its configuration."""

    def begun(name):
        directory = begun_directory(tiny(f"name={name}"))
        return directory.path, MetricsLog(directory.metrics_file)

    return begun


@pytest.fixture
def meanwhile(monkeypatch):
    """`meanwhile(first, second, …)`: calls to run, one each time the command waits between two polls."""

    def happens(*calls):
        coming = iter(calls)
        monkeypatch.setattr("reid_ray.cli.export_metrics.time", SimpleNamespace(sleep=lambda seconds: next(coming)()))

    return happens


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(scalar.step, scalar.value) for scalar in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_runs_are_followed_until_all_have_ended(command, small, meanwhile, tmp_path):
    pytest.importorskip("tensorboard")
    (first, first_log), (second, second_log) = small("first"), small("second")
    first_log.write("step", stage="main", epoch=0, step=1, global_step=1, loss=2.5)
    meanwhile(
        lambda: (
            first_log.write("evaluate", stage="main", epoch=2, global_step=8, mAP=0.5),
            first_log.write("end", epochs=2),
        ),
        lambda: second_log.write("start", stage="main", epoch=0, step=0),
        lambda: second_log.write("end", epochs=2),
    )
    code, text = command(first, second, "--to", "tensorboard", "--out", tmp_path / "all")
    assert code == 0, text
    assert "first, so far: 1 points" in text
    assert f"first, finished: 2 points in {tmp_path}/all/first" in text
    assert "second, so far: 0 points" in text
    assert "second, finished: 0 points" in text
    assert scalars(tmp_path / "all" / "first") == {"step/loss": [(1, 2.5)], "evaluate/mAP": [(8, 0.5)]}


def test_ctrl_c_stops_following_and_no_follow_exports_once(command, small, meanwhile):
    pytest.importorskip("tensorboard")
    path, log = small("run")
    log.write("step", stage="main", epoch=0, step=1, global_step=1, loss=2.5)

    def interrupt():
        raise KeyboardInterrupt

    meanwhile(interrupt)
    code, text = command(path, "--to", "tensorboard")
    assert code == 130, text
    assert "Rerun the same command to resume the export." in text
    meanwhile()  # it would fail if it waited
    code, text = command(path, "--to", "tensorboard", "--no-follow")
    assert code == 0, text
    assert scalars(path / "tensorboard") == {"step/loss": [(1, 2.5)]}


def test_mlflow_default_tracking_uri(command, small, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mine.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "people")
    path, log = small("run")
    log.write("step", stage="main", epoch=0, step=1, global_step=1, loss=2.5)
    code, text = command(path, "--to", "mlflow", "--no-follow")
    assert code == 0, text
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("people").experiment_id])
    assert run.data.metrics == {"step/loss": 2.5}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.db", "run"]


@pytest.mark.parametrize("to", ["tensorboard", "mlflow"])
def test_missing_run_and_missing_package_are_refused(command, small, tmp_path, monkeypatch, to):
    path, log = small("run")
    log.write("step", stage="main", epoch=0, step=1, global_step=1, loss=2.5)
    assert_refused(command(tmp_path / "none", "--to", to), "is not a run directory")
    monkeypatch.setitem(sys.modules, to, None)
    assert_refused(command(path, "--to", to), f"{to}, which is not installed; pip install 'reid-ray[track]'")


def test_unknown_target_is_refused(command, small):
    assert_refused(command(small("run")[0], "--to", "wandb"), "'wandb'; use --to tensorboard or --to mlflow.")


def test_unwritable_folder_is_refused(command, small, tmp_path):
    pytest.importorskip("tensorboard")
    path, log = small("run")
    log.write("step", stage="main", epoch=0, step=1, global_step=1, loss=2.5)
    (tmp_path / "file").touch()
    result = command(path, "--to", "tensorboard", "--out", tmp_path / "file")
    assert_refused(result, f"Cannot write {tmp_path}/file/run (Not a directory)", "--out")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nowhere://x", "folder"])
def test_unreachable_mlflow_is_refused(command, small, monkeypatch, tmp_path, uri):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    path, log = small("run")
    log.write("step", stage="main", epoch=0, step=1, global_step=1, loss=2.5)
    result = command(path, "--to", "mlflow", "--out", uri)
    assert_refused(result, f"MLflow at {uri} fails: ", "such as sqlite:///")
