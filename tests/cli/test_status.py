"""`reid-ray status`: facts and advice for run directories in different states."""

import json
import time

import pytest
from small_runs import begun_directory
from typer.testing import CliRunner

from reid_ray.cli import app
from reid_ray.cli.status import _duration
from reid_ray.errors import RunError
from reid_ray.training.metrics import MetricsLog


def status(path, *options):
    return CliRunner().invoke(app, ["status", str(path), *options])


@pytest.fixture
def directory(tiny):
    """The directory of a run that has written only its configuration."""
    return begun_directory(tiny("name=small"))


def test_finished_run(directory):
    log = MetricsLog(directory.metrics_file)
    log.write("start", stage="main", epoch=0, step=0, n_workers=2, device="cpu")
    log.write("refresh", epoch=1, n_clusters=12, n_outliers=3, n_images=48)
    log.write("step", epoch=1, step=4, loss=1.25)
    log.write("evaluate", epoch=2, mAP=0.2468, R1=0.5)
    log.write("end", epochs=2)
    (directory.checkpoints / "step-00000008-0-0.pt").touch()
    result = status(directory.path)
    assert result.exit_code == 0, result.output
    for words in (
        "small: finished",
        "ice on synthetic, hash ",
        "2 of 2 completed in stage main",
        "1.250 at step 4 of epoch 2",
        "12 clusters, 3 outliers of 48 images, for epoch 2",
        "mAP 24.7%, R1 50.0% after epoch 2",
        "2 workers on cpu",
        "step-00000008-0-0.pt",
        f"reid-ray evaluate {directory.path}",
    ):
        assert words in result.stdout, words
    told = json.loads(status(directory.path, "--json").stdout)
    assert (told["phase"], told["epoch"], told["run"]) == ("finished", 2, str(directory.path))


def test_killed_run(directory):
    assert "Nothing trained yet" in status(directory.path).stdout
    log = MetricsLog(directory.metrics_file)
    log.write("step", epoch=1, step=3, loss=None)
    running = status(directory.path).stdout
    for words in (
        "small: running",
        "1 of 2 completed in stage main",
        "3 of 4",
        "not finite at step 3 of epoch 2",
        "none yet",
        "it seems to run",
    ):
        assert words in running, words
    text = directory.metrics_file.read_text()
    event = json.loads(text)
    directory.metrics_file.write_text(json.dumps(event | {"time": time.time() - 7300}) + "\n")
    silent = status(directory.path).stdout
    assert "Silent for 2.0 h, and its longest pause was 0 s: stopped, killed or hung." in silent
    assert f"Resume: reid-ray train {directory.path}/config.yaml" in silent
    directory.diverged_file(0).touch()
    assert "diverged-0.pt holds the batch" in status(directory.path).stdout


def test_stage_before_the_main_one(tiny):
    """Epochs and steps are those of the stage; with `iterations: null` they are known after the first step."""
    source = ("source={layout: synthetic}", "stages.source={epochs: 5, iterations: null}")
    directory = begun_directory(tiny("name=uda", *source))
    assert "0 of 5 completed in stage source" in status(directory.path).stdout
    log = MetricsLog(directory.metrics_file)
    log.write("start", stage="source", epoch=0, step=0, n_workers=1, device="cpu")
    log.write("step", stage="source", epoch=2, step=3, n_steps=7, loss=1.5)
    result = status(directory.path)
    for words in ("2 of 5 completed in stage source", "3 of 7", "1.500 at step 3 of epoch 3"):
        assert words in result.stdout, words
    told = json.loads(status(directory.path, "--json").stdout)
    assert (told["stage"], told["epochs"], told["epoch"], told["iterations"]) == ("source", 5, 2, 7)


def test_missing_run_is_refused(tmp_path):
    assert isinstance(status(tmp_path / "none").exception, RunError)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7300, "2.0 h")])
def test_durations(seconds, text):
    assert _duration(seconds) == text
