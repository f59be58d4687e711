"""A run whose images and directory lie in an object store: killed, gone on with, and read from where it never was."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from small_processes import TrainingProcess
from small_runs import assert_bit_equal, newest_state, steps_logged, wait_for

from reid_ray.api import train
from reid_ray.cli import main
from reid_ray.config import dump_config
from reid_ray.data.pack import pack
from reid_ray.data.readers import read_dataset
from reid_ray.errors import RunError
from reid_ray.io.paths import RemotePath, as_path, relative_path
from reid_ray.run import load_run
from reid_ray.training.checkpoint import Checkpoint, TrainState, checkpoint_files, latest_checkpoint
from reid_ray.training.metrics import MetricsFollower, MetricsLog, read_metrics
from reid_ray.training.rundir import RunDirectory

ELSEWHERE = """
import json, sys
from reid_ray import load_run
from reid_ray.cli import app
from typer.testing import CliRunner

def command(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout

uri, features = sys.argv[1:]
run = load_run(uri)
found = {
    "finished": run.finished,
    "labels": run.labels().num_rows,
    "metrics": json.loads(command("evaluate", uri, "--json")),
    "report": command("report", uri),
    "extract": command("extract", uri, "--out", features, "--split", "train"),
    "label": command("label", features, "--out", f"{uri}/again.parquet", "labels.k1=6", "labels.eps=0.7"),
}
print(json.dumps(found))
"""
"""What is done with a finished run, in a process of its own that has nothing of it."""


@pytest.mark.slow
def test_a_run_lives_in_a_store(tiny, tmp_path, bucket):
    local = pack(read_dataset(tiny().data), tmp_path / "packed")
    remote = as_path(f"{bucket}/packed")
    for file in local.iterdir():
        (remote / file.name).write_bytes(file.read_bytes())
    packed = ("data.layout=packed", "training.checkpoint_every=3", "evaluation.every=1")
    config = tiny(f"output={bucket}/runs", f"data.root={remote}", "name=killed", *packed)
    directory = RunDirectory.of(config)

    since, process = time.time(), TrainingProcess(config)
    wait_for(directory, lambda event: event["event"] == "epoch", process, since, poll_seconds=0.1)
    process.kill()
    process.join()
    train(config)
    starts = [event for event in read_metrics(directory.metrics_file) if event["event"] == "start"]
    assert [start["global_step"] > 0 for start in starts] == [False, True], "the second process resumes"
    assert steps_logged(directory) == list(range(1, 9)), "no step is logged twice, and none is missing"

    undisturbed = train(tiny(f"data.root={local}", "name=undisturbed", *packed))
    run = load_run(str(directory.path))
    assert_bit_equal(newest_state(undisturbed.directory), newest_state(run.directory))
    assert run.labels().drop_columns("path").equals(undisturbed.labels().drop_columns("path"))

    environment = {**os.environ, "HOME": str(tmp_path / "elsewhere"), "REID_CACHE": str(tmp_path / "elsewhere")}
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-c", ELSEWHERE, str(directory.path), f"{bucket}/features.npy"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["finished"]
    assert found["labels"] == run.labels().num_rows
    assert found["metrics"]["mAP"] == pytest.approx(undisturbed.metrics("evaluate")[-1]["mAP"], abs=1e-6)
    assert f"{directory.path}/report.html" in found["report"]
    names = [str(relative_path(path, directory.path)) for path in directory.path.files()]
    assert {"report.html", "curves.png", "again.parquet", "checkpoints/model-last.pt"} <= set(names)
    assert not [name for name in names if name.startswith(".") or "tmp" in name]
    assert not list(tmp_path.glob("s3*")), "nothing of it is on this machine"


@pytest.fixture
def begun(tiny, bucket):
    """The directory of a run in a store, with a checkpoint, and its configuration."""
    config = tiny(f"output={bucket}/runs")
    directory = RunDirectory.of(config)
    directory.create(config, {"data": read_dataset(config.data)})
    Checkpoint(TrainState(), {}, {}).save(directory.checkpoints, keep=1)
    return directory, config


def test_a_run_directory_follows_the_same_rules(tiny, begun, bucket):
    directory, config = begun
    assert directory.begun
    assert isinstance(directory.path, RemotePath)
    (directory.path / ".ray-1234" / "snapshot.json").write_bytes(b"what a killed driver leaves")
    directory.create(config, {"data": read_dataset(config.data)})
    assert not (directory.path / ".ray-1234").exists()
    with pytest.raises(RunError, match="seed was 0 and is 1"):
        directory.check(tiny(f"output={bucket}/runs", "seed=1"))
    other = tiny(f"output={bucket}/runs", "name=other")
    RunDirectory.of(other).check(other)
    (RunDirectory.of(other).path / "thesis.doc").write_bytes(b"")
    with pytest.raises(RunError, match="not a run directory"):
        RunDirectory.of(other).check(other)
    with pytest.raises(RunError, match="not a run directory"):
        load_run(f"{bucket}/runs/nothing")


def test_old_checkpoints_go_and_damaged_ones_are_passed_over(begun):
    directory, _ = begun
    for step in (1, 2, 3):
        Checkpoint(TrainState(global_step=step), {"net": {"w": torch.ones(step)}}, {}).save(
            directory.checkpoints, keep=2
        )
    newest, before = checkpoint_files(directory.checkpoints)
    assert (newest.name, before.name) == ("step-00000003-0-0.pt", "step-00000002-0-0.pt")
    assert latest_checkpoint(directory.checkpoints) == newest
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="is damaged"):
        assert latest_checkpoint(directory.checkpoints) == before
    assert Checkpoint.load(before).state.global_step == 2


def test_the_log_is_put_now_and_then_and_whole_before_a_checkpoint(bucket, monkeypatch):
    monkeypatch.setattr("reid_ray.io.files.UPLOAD_SECONDS", 3600.0)  # a busy machine takes its time
    path = as_path(f"{bucket}/runs/x/metrics.jsonl")
    log = MetricsLog(path)
    log.rewind(0)
    assert not path.exists()
    log.write("start", epoch=0)
    follower = MetricsFollower(path)
    for step in range(3):
        log.write("step", step=step)
    assert [event["event"] for event in read_metrics(path)] == ["start"], "steps wait"
    log.flush()
    assert [event["step"] for event in follower.read()] == [0, 1, 2]
    position = log.position
    assert position == path.stat().st_size
    log.write("step", step=3)
    log.write("epoch", epoch=0)
    assert [event["event"] for event in follower.read()] == ["step", "epoch"]
    again = MetricsLog(path)  # of a process that goes on
    again.rewind(position)
    again.write("end", epochs=1)
    assert [event["event"] for event in read_metrics(path)] == ["start", "step", "step", "step", "end"]
    assert [event["event"] for event in follower.read()] == ["end"]


def test_a_store_that_fails_ends_the_run_with_one_sentence(tiny, bucket, monkeypatch, capsys, tmp_path):
    """In the middle of a run, as a full disk does; the last checkpoint is whole, and the same command goes on."""
    config = tiny(f"output={bucket}/runs", "training.checkpoint_every=2", "training.epochs=1")
    directory = RunDirectory.of(config)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_config(config))
    put = RemotePath.write_bytes

    def failing(path, data):
        put(as_path("s3://gone") / path.name if path.name.startswith("step-00000004") else path, data)

    monkeypatch.setattr(RemotePath, "write_bytes", failing)
    monkeypatch.setattr(sys, "argv", ["reid-ray", "train", str(recipe)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "the bucket does not exist" in told
    assert "rerun the same command to resume from the last checkpoint" in told
    assert latest_checkpoint(directory.checkpoints).name.startswith("step-00000002")
    monkeypatch.setattr(RemotePath, "write_bytes", put)
    assert train(config).finished
    assert steps_logged(directory) == [1, 2, 3, 4]
