"""The same command twice at the same time: one process trains, the other is told so, and none is in the way later."""

import json
import sys
import time
from dataclasses import asdict, replace

import pytest
from small_processes import TrainingProcess
from small_runs import begun_directory, on_workers, steps_logged, wait_for

from reid_ray.api import train
from reid_ray.cli import main
from reid_ray.config import dump_config
from reid_ray.data.feature_folder import LEASE
from reid_ray.data.pack import held, pack
from reid_ray.data.readers import read_dataset
from reid_ray.errors import RunError
from reid_ray.io import lease
from reid_ray.io.lease import Holder, hold
from reid_ray.io.paths import as_path
from reid_ray.runtime.streaming import stream_features
from reid_ray.training.metrics import read_metrics
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.services import run_on_main


def test_the_second_start_is_refused_and_the_run_resumes_after_a_kill(tiny, tmp_path, monkeypatch, capsys):
    config = tiny("training.epochs=400", "training.iterations=2")
    directory = RunDirectory.of(config)
    since, first = time.time(), TrainingProcess(config)
    wait_for(directory, lambda event: event["event"] == "epoch", first, since)
    recipe = tmp_path / "again.yaml"
    recipe.write_text(dump_config(config))
    monkeypatch.setattr(sys, "argv", ["reid-ray", "train", str(recipe)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"already training into {directory.path}: process {first.pid} on " in message
    assert "(now in epoch " in message
    first.kill()
    first.join()
    assert directory.lease_file.exists(), "a killed process removes nothing"
    n_epochs = 1 + max(event["epoch"] for event in read_metrics(directory.metrics_file) if event["event"] == "epoch")
    run = train(tiny(f"training.epochs={n_epochs + 1}", "training.iterations=2"))
    steps = steps_logged(directory)
    assert steps == list(range(1, len(steps) + 1)), "no step is logged twice, and none is missing"
    assert run.finished
    assert not directory.lease_file.exists()


def test_a_run_whose_lease_was_taken_stops_before_it_writes(tiny, monkeypatch):
    monkeypatch.setattr(lease, "FENCE_SECONDS", 0.0)
    directory = RunDirectory.of(tiny())
    written = []

    def listener(event):
        written.append(event["event"])
        if event["event"] == "refresh":
            other = replace(Holder.this_process(), machine="node-7", system="another", process=4711)
            directory.lease_file.write_text(json.dumps(asdict(other)))

    with pytest.raises(RunError, match="Process 4711 on node-7 has taken over"):
        train(tiny(), listener=listener)
    assert written[-1] == "refresh"
    assert not list(directory.checkpoints.iterdir()), "the checkpoint after the refresh is not written"
    assert json.loads(directory.lease_file.read_text())["process"] == 4711


def test_all_workers_learn_that_the_directory_is_held(tiny):
    directory = RunDirectory.of(tiny())
    with directory.held():
        answers = on_workers(2, lambda context: run_on_main(context, lambda: directory.held().__enter__()))
    assert [type(answer) for answer in answers] == [RunError, RunError]


def test_what_only_holds_a_lease_is_no_other_folder(tiny):
    """A process that was killed before it wrote its configuration is in nobody's way."""
    directory = RunDirectory.of(tiny())
    directory.path.mkdir(parents=True)
    directory.lease_file.write_text("{}")
    (directory.path / ".lease.json.0.tmp").touch()
    directory.check(tiny())
    assert begun_directory(tiny()).config_file.exists()


def test_packing_and_features_are_held_too(tiny, tmp_path, finished_run):
    dataset, out = read_dataset(tiny().data), tmp_path / "packed"
    with held(out), pytest.raises(RunError, match=f"already packing into {out}"):
        pack(dataset, out)
    assert not out.exists()
    pack(dataset, out)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    config, table = finished_run.config, finished_run.dataset.table
    model, features = finished_run.directory.model_file("last"), tmp_path / "features"
    with (
        hold(features / LEASE, "extracting"),
        pytest.raises(RunError, match=f"already extracting into {features}"),
    ):
        stream_features(config, model, table, finished_run.dataset.images, features)
    assert not features.exists()


def test_a_pack_in_a_bucket_of_its_own(bucket):
    with held(as_path(bucket)) as fence:
        assert fence.file == as_path(f"{bucket}/.lease.json")
