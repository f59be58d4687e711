"""Large objects are copied to a local disk once, and again after they change."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reid_ray.errors import DataError
from reid_ray.io.local_copy import local_copy
from reid_ray.io.paths import RemotePath, as_path


def test_local_file_is_not_copied(tmp_path):
    assert local_copy(tmp_path / "x") == tmp_path / "x"


def test_one_process_copies_and_the_others_wait(bucket, monkeypatch):
    path = as_path(f"{bucket}/shard.arrow")
    path.write_bytes(b"0123456789" * 1000)
    opened, barrier = [], threading.Barrier(4)
    reading = RemotePath.open
    monkeypatch.setattr(RemotePath, "open", lambda path, mode: opened.append(path) or reading(path, mode))

    def ask(_):
        barrier.wait()
        return local_copy(path)

    with ThreadPoolExecutor(4) as pool:
        (copy,) = set(pool.map(ask, range(4)))
    assert opened == [path]
    assert copy.read_bytes() == path.read_bytes()
    assert local_copy(path) == copy
    assert len(opened) == 1


def test_changed_object_is_copied_again_and_partial_copies_are_ignored(bucket):
    path = as_path(f"{bucket}/shard.arrow")
    path.write_bytes(b"old")
    old = local_copy(path)
    path.write_bytes(b"newer")
    version = local_copy(path)
    version.rename(version.with_suffix(".partial"))  # as a process leaves it that is killed before it has renamed
    assert old.read_bytes() == b"old"
    assert local_copy(path).read_bytes() == b"newer"


def test_missing_object_and_full_disk_are_one_line_errors(bucket, file_size_limit):
    path = as_path(f"{bucket}/shard.arrow")
    with pytest.raises(DataError, match=r"s3://.*/shard.arrow does not exist"):
        local_copy(path)
    path.write_bytes(b"x" * 100_000)
    with file_size_limit(1000), pytest.raises(DataError, match="set REID_CACHE"):
        local_copy(path)
    assert [name for name in os.listdir(os.environ["REID_CACHE"]) if not name.endswith(".partial")] == []  # noqa: PTH208
    assert Path(local_copy(path)).stat().st_size == 100_000
