"""Atomic writes: a full disk gives a one-line error and leaves the old file intact."""

import errno
import os

import pytest
import torch

from reid_ray.errors import RunError
from reid_ray.io.files import append, atomic_write, storage_errors
from reid_ray.io.tensors import save_atomically


def only(folder):
    (entry,) = folder.iterdir()
    return entry


def test_file_is_replaced_atomically(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"ne")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b"w")
    assert path.read_bytes() == b"new"
    assert only(tmp_path) == path


def test_a_reader_that_has_the_old_file_open_reads_all_of_it(tmp_path):
    """The new file takes the name of the old one, whose content stays: it is not written over."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        with atomic_write(path) as file:
            file.write(b"new")
        assert reader.read() == b"old"


def test_failing_block_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted():
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert only(tmp_path) == path


@pytest.mark.parametrize("room", [0, 1_000, 200_000, 400_000, 401_000, 402_000])
def test_full_disk_is_a_one_line_error_at_any_byte_of_torch_save(room, tmp_path, file_size_limit):
    path = tmp_path / "step.pt"
    save_atomically({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    with file_size_limit(room), pytest.raises(RunError, match=r"step\.pt \(File too large\); free space") as caught:
        save_atomically({"a": torch.zeros(100_000), "b": torch.zeros(100)}, path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert only(tmp_path) == path


def test_missing_or_conflicting_folder_is_a_one_line_error(tmp_path):
    with pytest.raises(RunError, match="No such file"), atomic_write(tmp_path / "nowhere" / "file"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="folder"), atomic_write(tmp_path / "folder"):
        pass


def test_append_is_all_or_nothing(tmp_path, file_size_limit):
    path = tmp_path / "log"
    append(path, b"first\n")
    append(path, b"second\n")
    with file_size_limit(15), pytest.raises(RunError, match="log"):
        append(path, b"third\n")
    assert path.read_bytes() == b"first\nsecond\n"
    append(path, b"third\n")
    assert path.read_bytes() == b"first\nsecond\nthird\n"


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), storage_errors(tmp_path):
        raise RuntimeError("a bug")
    with pytest.raises(RunError, match=os.strerror(errno.ENOSPC)), storage_errors(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
