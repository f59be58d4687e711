"""The entry points run the commands, in a process as a cluster starts it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jobs
from reid_ray.cli.jobs import JOBS
from reid_ray.jobs import entry

FOLDER = Path(jobs.__file__).parent


@pytest.mark.parametrize("job", JOBS)
def test_entry_point_runs_its_command_on_the_local_cluster(job, monkeypatch):
    told = []
    monkeypatch.setattr(entry, "main", told.append)
    monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", "ice", "output=/shared/runs"])
    monkeypatch.setenv("RAY_ADDRESS", "of whoever runs the tests")  # so that it is put back
    monkeypatch.delenv("RAY_ADDRESS")
    entry.run(job)
    assert told == [[*JOBS[job], "ice", "output=/shared/runs"]]
    assert os.environ["RAY_ADDRESS"] == "auto"
    assert f'run("{job}")' in (FOLDER / f"{job}.py").read_text()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    entry.run(job)
    assert os.environ["RAY_ADDRESS"] == "10.0.0.1:6379"


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_as_a_file_and_as_a_module():
    as_file = start(str(FOLDER / "train.py"), "demo", "output=/shared/runs", "--show-config")
    assert as_file.returncode == 0, as_file.stderr
    assert "output: /shared/runs" in as_file.stdout
    wrong = start("-m", "reid_ray.jobs.train", "demo", "output=/shared/runs", "training.epoch=1")
    assert wrong.returncode == 2
    assert "did you mean 'training.epochs'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_submitting_as_a_file():
    told = start(str(FOLDER / "submit.py"), "demo", "output=/shared/runs", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "entrypoint: python -m reid_ray.jobs.train demo output=/shared/runs" in told.stdout
