"""Folders that go with the process that made them, however it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from reid_ray.runtime import cleanup_process
from reid_ray.runtime.cleanup import ray_folder, short_lived

SLEEPER = """
import sys, time
from pathlib import Path
from reid_ray.runtime.cleanup import short_lived
run, folder = Path(sys.argv[1]), Path(sys.argv[2])
with short_lived(run, folder):
    (folder / "session").mkdir()
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folders(tmp_path):
    run, ours = tmp_path / "run", tmp_path / "ours"
    (run / "checkpoints").mkdir(parents=True)
    ours.mkdir()
    return run, ours


def gone(path, seconds=20):
    until = time.monotonic() + seconds
    while path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    return not path.exists()


def test_after_the_block_they_are_gone(folders):
    run, ours = folders
    with short_lived(run, ours):
        (ours / "session").mkdir()
    assert not ours.exists()
    assert run.exists()


@pytest.fixture
def abandoned(folders):
    """What a killed worker was writing, long ago."""
    file = folders[0] / "checkpoints" / ".step-00000001-1.pt.17.tmp"
    file.write_bytes(b"half")
    os.utime(file, (0, 0))
    return file


def test_after_an_error_too_and_then_workers_may_still_be_dying(folders, abandoned):
    run, ours = folders

    def fail():
        with short_lived(run, ours):
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        fail()
    assert not ours.exists()
    assert gone(abandoned)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_nothing(folders, abandoned, number):
    """Nor does one that is killed with all of its group, as by a terminal that closes."""
    run, ours = folders
    kept = run / "checkpoints" / "step-00000000-1.pt"
    kept.touch()
    command = [sys.executable, "-c", SLEEPER, str(run), str(ours)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "there\n"
        os.killpg(process.pid, number)
    assert gone(ours)
    assert gone(abandoned)
    assert kept.exists()


def test_what_another_run_is_writing_is_left(folders):
    run, ours = folders
    fresh = run / ".metrics.tmp"
    fresh.touch()
    cleanup_process.tidy(run, [ours])
    assert fresh.exists()
    os.utime(fresh, (0, 0))
    cleanup_process.tidy(run, [ours])
    assert not fresh.exists()
    cleanup_process.tidy(run, [ours])  # nothing there is no mistake


def test_the_path_of_ray_s_folder_is_short_enough_for_sockets(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folder = ray_folder()
    try:
        assert len(f"{folder}/session_2026-11-21_13-17-17_123456_1234567/sockets/plasma_store") < 104
    finally:
        folder.rmdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_folder().parent == tmp_path
