"""`reid-ray status`: the rows and the advice, from directories as runs leave them."""

import json
import time

import pytest
from typer.testing import CliRunner

from reid_ray.cli import app
from reid_ray.cli.status import _duration
from reid_ray.errors import RunError
from reid_ray.training.metrics import MetricsLog
from reid_ray.training.rundir import RunDirectory


def status(path, *options):
    return CliRunner().invoke(app, ["status", str(path), *options])


def test_a_finished_run(finished_run):
    result = status(finished_run.path)
    assert result.exit_code == 0, result.output
    evaluated = finished_run.metrics("evaluate")[-1]
    for words in (
        ": finished",
        "1 of 1 completed",
        f"mAP {evaluated['mAP']:.1%}",
        f"{finished_run.metrics('refresh')[-1]['n_clusters']} clusters",
        "1 workers on cpu",
        "step-00000004-0.pt",
        f"reid-ray evaluate {finished_run.path}",
    ):
        assert words in result.stdout, words
    told = json.loads(status(finished_run.path, "--json").stdout)
    assert (told["phase"], told["epoch"], told["run"]) == ("finished", 1, str(finished_run.path))


def test_a_run_that_was_killed(tiny, tmp_path):
    config = tiny("name=killed")
    directory = RunDirectory.of(config)
    directory.path.mkdir()
    from reid_ray.config import dump_config

    directory.config_file.write_text(dump_config(config))
    assert "Nothing trained yet" in status(directory.path).stdout
    log = MetricsLog(directory.metrics_file)
    log.write("step", epoch=1, step=3, loss=None)
    running = status(directory.path).stdout
    for words in (
        "killed: running",
        "1 of 2 completed",
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
    assert f"Go on: reid-ray train {directory.path}/config.yaml" in silent
    directory.diverged_file(0).touch()
    assert "diverged-0.pt holds the batch" in status(directory.path).stdout


def test_there_is_no_run(tmp_path):
    assert isinstance(status(tmp_path / "none").exception, RunError)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7300, "2.0 h")])
def test_durations(seconds, text):
    assert _duration(seconds) == text
