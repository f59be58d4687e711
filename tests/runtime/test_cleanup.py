"""Temporary folders are removed when their process ends, even by SIGKILL."""

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


def test_folders_are_removed_after_the_block(folders):
    run, ours = folders
    with short_lived(run, ours):
        (ours / "session").mkdir()
    assert not ours.exists()
    assert run.exists()


@pytest.fixture
def abandoned(folders):
    """A partial file that a killed worker left long ago."""
    file = folders[0] / "checkpoints" / ".step-00000001-1.pt.17.tmp"
    file.write_bytes(b"half")
    os.utime(file, (0, 0))
    return file


def test_folders_are_removed_after_an_error_while_workers_may_still_run(folders, abandoned):
    run, ours = folders

    def fail():
        with short_lived(run, ours):
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        fail()
    assert not ours.exists()
    assert gone(abandoned)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_process_leaves_nothing(folders, abandoned, number):
    """Also if its whole process group is killed, as when a terminal closes."""
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


def test_recent_partial_files_are_kept(folders):
    run, ours = folders
    fresh = run / ".metrics.tmp"
    fresh.touch()
    cleanup_process.clean(run, [ours])
    assert fresh.exists()
    os.utime(fresh, (0, 0))
    cleanup_process.clean(run, [ours])
    assert not fresh.exists()
    cleanup_process.clean(run, [ours])  # missing folders are not an error


def test_path_of_rays_folder_is_short_enough_for_sockets(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    folder = ray_folder()
    try:
        assert len(f"{folder}/session_2026-11-21_13-17-17_123456_1234567/sockets/plasma_store") < 104
    finally:
        folder.rmdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_folder().parent == tmp_path
