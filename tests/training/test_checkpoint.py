"""Checkpoints: what goes in comes out, the newest whole one is found, and older ones make room."""

import numpy as np
import pytest
import torch
from small_runs import on_workers

from reid_ray.errors import RunError
from reid_ray.models import GroupBatchNorm
from reid_ray.training.checkpoint import (
    Checkpoint,
    TrainState,
    capture_modules,
    checkpoint_files,
    latest_checkpoint,
    restore_local_buffers,
    version_errors,
)
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import Labels


def labels():
    rng = np.random.default_rng(0)
    return Labels(
        3,
        np.array([0, 1, -1, 1]),
        rng.normal(size=(2, 4)).astype(np.float32),
        rng.normal(size=(3, 4)).astype(np.float32),
        np.array([0, 1, 1]),
        np.array([0, 0, 2]),
        threshold=0.25,
    )


def checkpoint(global_step=0, *, refreshed=False, **state):
    return Checkpoint(
        TrainState(global_step=global_step, refreshed=refreshed, **state),
        modules={"student": {"weight": torch.arange(5.0) + global_step}},
        optimizers={"main": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}},
        labels={"train": labels()},
        ahead={"weight": torch.ones(2)},
        evaluated={"weight": torch.zeros(2)},
    )


def names(folder):
    return [path.name for path in checkpoint_files(folder)]


def test_what_goes_in_comes_out(tmp_path):
    """Of labels what resuming reads; what a method makes of the rest is in its modules."""
    state = {"stage": 1, "epoch": 2, "step": 3, "stage_step": 5, "degenerate": 1, "best": 0.25, "metrics": 99}
    saved = checkpoint(7, **state, refreshed=True)
    loaded = Checkpoint.load(saved.save(tmp_path, keep=1))
    assert loaded.state == saved.state
    assert torch.equal(loaded.modules["student"]["weight"], saved.modules["student"]["weight"])
    assert loaded.optimizers == saved.optimizers
    assert loaded.labels.keys() == {"train"}
    found, expected = loaded.labels["train"], labels()
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == expected.labels.tolist()
    assert (found.version, found.threshold) == (expected.version, expected.threshold)
    assert torch.equal(loaded.ahead["weight"], torch.ones(2))
    assert torch.equal(loaded.evaluated["weight"], torch.zeros(2))


def test_a_state_without_labels(tmp_path):
    loaded = Checkpoint.load(Checkpoint(TrainState(), {}, {}).save(tmp_path, keep=1))
    assert loaded.labels == {}
    assert loaded.ahead is loaded.evaluated is None


@pytest.mark.parametrize(
    ("state", "begun"),
    [
        ({}, False),
        ({"stage": 1, "global_step": 8}, False),
        ({"refreshed": True}, True),
        ({"epoch": 1}, True),
        ({"step": 1}, True),
    ],
)
def test_a_stage_has_begun_with_its_first_labels(state, begun):
    assert TrainState(**state).stage_begun is begun


def test_the_newest_are_kept_and_one_after_a_refresh_is_newer(tmp_path):
    """At one step: the end of a stage, the start of the next, and after its first refresh."""
    for step, stage, refreshed in ((0, 0, True), (9, 0, True), (10, 0, True), (10, 1, False), (10, 1, True)):
        checkpoint(step, stage=stage, refreshed=refreshed).save(tmp_path, keep=2)
        assert names(tmp_path)[0] == f"step-{step:08d}-{stage}-{int(refreshed)}.pt"
    assert names(tmp_path) == ["step-00000010-1-1.pt", "step-00000010-1-0.pt"]
    (tmp_path / "model-last.pt").touch()
    checkpoint(11, stage=1).save(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-last.pt", "step-00000011-1-0.pt"]


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
    with pytest.warns(UserWarning, match=r"step-00000002-0-0\.pt is damaged"):
        assert latest_checkpoint(tmp_path) == older


def test_nothing_but_damaged_ones_is_an_error_and_not_a_new_beginning(tmp_path):
    for step in (1, 2):
        cut(checkpoint(step).save(tmp_path, keep=2))
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(RunError, match=r"step-00000002-0-0\.pt, step-00000001-0-0\.pt"),
    ):
        latest_checkpoint(tmp_path)


def test_each_worker_gets_its_own_bn_statistics_back():
    """The statistics in the file are merged, which takes real processes: test_worker_count.py has them."""

    def work(context):
        norm = GroupBatchNorm(2).train()
        norm(torch.randn(8, 2, generator=torch.Generator().manual_seed(context.rank)) + 3 * context.rank)
        own = norm.running_mean.clone(), norm.running_var.clone()
        _, buffers = capture_modules({"net": norm}, context)
        norm.reset_running_stats()
        restore_local_buffers({"net": norm}, buffers, context)
        return own, (norm.running_mean, norm.running_var)

    (first, first_after), (second, second_after) = on_workers(2, work)
    assert not torch.equal(first[0], second[0])
    for before, after in ((first, first_after), (second, second_after)):
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_another_number_of_workers_takes_the_merged_statistics():
    norm = GroupBatchNorm(2)
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    buffers = [{"net": {"running_mean": torch.ones(2)}}] * 2
    restore_local_buffers({"net": norm}, buffers, DistributedContext())
    assert all(torch.equal(before[name], tensor) for name, tensor in norm.state_dict().items())


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), ValueError("x"), RuntimeError("x")])
def test_what_does_not_fit_is_of_another_version(tmp_path, error):
    with (
        pytest.raises(RunError, match=r"step\.pt was written by another version"),
        version_errors(tmp_path / "step.pt"),
    ):
        raise error


def test_lack_of_memory_is_no_other_version(tmp_path):
    with pytest.raises(torch.OutOfMemoryError), version_errors(tmp_path / "step.pt"):
        raise torch.OutOfMemoryError("none left")
