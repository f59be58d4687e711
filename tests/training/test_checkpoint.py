"""Checkpoints: what goes in comes out, the newest whole one is found, and older ones make room."""

import numpy as np
import pytest
import torch

from reid_ray.errors import RunError
from reid_ray.training.checkpoint import Checkpoint, Position, checkpoint_files, latest_checkpoint
from reid_ray.types import PseudoLabels


def labels():
    rng = np.random.default_rng(0)
    return PseudoLabels(
        3,
        np.array([0, 1, -1, 1]),
        rng.normal(size=(2, 4)).astype(np.float32),
        rng.normal(size=(3, 4)).astype(np.float32),
        np.array([0, 1, 1]),
        np.array([0, 0, 2]),
    )


def checkpoint(global_step=0, *, refreshed=False, **position):
    return Checkpoint(
        Position(global_step=global_step, refreshed=refreshed, **position),
        networks={"student": {"weight": torch.arange(5.0) + global_step}},
        optimizers={"student": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}},
        labels=labels(),
    )


def names(folder):
    return [path.name for path in checkpoint_files(folder)]


def test_what_goes_in_comes_out(tmp_path):
    saved = checkpoint(7, epoch=2, step=3, degenerate=1, best_map=0.25, metrics=99, refreshed=True)
    loaded = Checkpoint.load(saved.save(tmp_path, keep=1))
    assert loaded.position == saved.position
    assert torch.equal(loaded.networks["student"]["weight"], saved.networks["student"]["weight"])
    assert loaded.optimizers == saved.optimizers
    assert loaded.labels.digest() == saved.labels.digest()
    assert loaded.labels.labels.dtype == np.int64


def test_a_state_without_labels(tmp_path):
    saved = checkpoint()
    saved.labels = None
    assert Checkpoint.load(saved.save(tmp_path, keep=1)).labels is None


def test_the_newest_are_kept_and_one_after_a_refresh_is_newer(tmp_path):
    for step, refreshed in ((0, True), (9, False), (10, False), (10, True)):
        checkpoint(step, refreshed=refreshed).save(tmp_path, keep=2)
    assert names(tmp_path) == ["step-00000010-1.pt", "step-00000010-0.pt"]
    (tmp_path / "model-last.pt").touch()
    checkpoint(11).save(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-last.pt", "step-00000011-0.pt"]


def test_no_checkpoint_yet(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "nowhere") is None


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(5.0).add(2).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_one_is_named_and_passed_over(damage, tmp_path):
    older, newest = (checkpoint(step).save(tmp_path, keep=2) for step in (1, 2))
    assert latest_checkpoint(tmp_path) == newest
    damage(newest)
    with pytest.warns(UserWarning, match=r"step-00000002-0\.pt is damaged"):
        assert latest_checkpoint(tmp_path) == older


def test_nothing_but_damaged_ones_is_an_error_and_not_a_new_beginning(tmp_path):
    for step in (1, 2):
        cut(checkpoint(step).save(tmp_path, keep=2))
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(RunError, match=r"step-00000002-0\.pt, step-00000001-0\.pt"),
    ):
        latest_checkpoint(tmp_path)
