"""Promise 2: killed is not lost. A run killed anywhere and started again ends, bit for bit, as one that was not."""

import os
import signal
import sys
import time

import pytest
import torch
from small_processes import TrainingProcess
from small_runs import assert_bit_equal, newest_state, steps_logged, wait_for

from reid_ray.api import train
from reid_ray.cli import main
from reid_ray.config import dump_config
from reid_ray.errors import RunError
from reid_ray.models import build_embedder
from reid_ray.training.checkpoint import checkpoint_files
from reid_ray.training.inline import train_inline
from reid_ray.training.rundir import RunDirectory

LONGER = ("training.iterations=8", "training.checkpoint_every=3", "training.keep_checkpoints=2")
"""A kill must fall inside an epoch, and between two checkpoints."""

MOMENTS = {
    "during the first refresh": lambda event: event["event"] == "start",
    "inside the first epoch": lambda event: event["event"] == "step" and event["global_step"] == 4,
    "between epochs": lambda event: event["event"] == "epoch" and event["epoch"] == 0,
    "inside the second epoch": lambda event: event["event"] == "step" and event["global_step"] == 13,
}


@pytest.fixture
def reid_ray_train(tmp_path, monkeypatch):
    """`reid_ray_train(config)`: the command line in this process; its exit code."""

    def command(config):
        recipe = tmp_path / f"{config.name}.yaml"
        recipe.write_text(dump_config(config))
        monkeypatch.setattr(sys, "argv", ["reid-ray", "train", str(recipe)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    return command


def test_killed_at_every_kind_of_moment_a_run_ends_bit_equal(tiny, reid_ray_train, capsys):
    """One run, killed again and again; a process that an earlier kill has harmed would show at the end."""
    config = tiny("name=killed", *LONGER)
    directory = RunDirectory.of(config)
    for moment, wanted in MOMENTS.items():
        since, process = time.time(), TrainingProcess(config)
        wait_for(directory, wanted, process, since)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment
    assert reid_ray_train(config) == 0
    assert "resuming at epoch 2" in capsys.readouterr().out
    assert steps_logged(directory) == list(range(1, 17)), "no step is logged twice, and none is missing"
    assert not list(directory.path.rglob("*.tmp"))
    killed = newest_state(directory)
    undisturbed = train(tiny("name=undisturbed", *LONGER))
    assert_bit_equal(newest_state(undisturbed.directory), killed)


def test_ctrl_c_leaves_a_run_that_goes_on_where_it_was(tiny, reid_ray_train, monkeypatch, capsys):
    """Through the command line: a signal inside a step, one sentence, exit code 130, and nothing done twice."""
    from reid_ray.cli import progress

    config = tiny("name=interrupted", "training.epochs=1", "training.iterations=6")
    directory = RunDirectory.of(config)
    show = progress.RunProgress.__call__

    def press_ctrl_c(self, event):
        show(self, event)
        if event["event"] == "step" and event["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress.RunProgress, "__call__", press_ctrl_c)
    assert reid_ray_train(config) == 130
    assert "Rerun the same command to resume from the last checkpoint" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert steps_logged(directory) == [1, 2, 3]
    assert newest_state(directory)["state"]["step"] == 3  # not back at the epoch's start
    monkeypatch.undo()
    train(config)
    assert steps_logged(directory) == [1, 2, 3, 4, 5, 6]
    whole = train(tiny("name=whole", "training.epochs=1", "training.iterations=6"))
    assert_bit_equal(newest_state(whole.directory), newest_state(directory))


def test_a_damaged_checkpoint_is_passed_over(tiny):
    config = tiny("name=damaged", "training.keep_checkpoints=2")
    run = train(config)
    expected = newest_state(run.directory)
    newest = sorted(run.directory.checkpoints.glob("step-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    log = run.directory.metrics_file
    log.write_text("\n".join(log.read_text().splitlines()[:-1]) + "\n")
    with pytest.warns(UserWarning, match="is damaged"):
        train_inline(config, {"data": run.dataset})
    assert_bit_equal(expected, newest_state(run.directory))


@pytest.mark.parametrize("change", ["module", "tensor", "shape", "state"])
def test_a_checkpoint_of_another_version_is_one_sentence(tiny, change):
    config = tiny("training.epochs=1", "training.iterations=2")
    (path,) = checkpoint_files(train(config).directory.checkpoints)
    state = torch.load(path, weights_only=True)
    weights = state["modules"]["student"]
    if change == "module":
        state["modules"]["pupil"] = state["modules"].pop("student")
    elif change == "tensor":
        weights["another"] = weights.pop(next(iter(weights)))
    elif change == "shape":
        weights[next(iter(weights))] = torch.zeros(3)
    else:
        state["state"]["another"] = 1
    torch.save(state, path)
    with pytest.raises(RunError, match=rf"{path.name} was written by another version of reid_ray"):
        train(tiny("training.epochs=2", "training.iterations=2"))


def test_a_finished_run_is_not_trained_again_and_more_epochs_continue_it(tiny):
    run = train(tiny("training.epochs=1"))
    before = run.directory.metrics_file.read_bytes()
    train(tiny("training.epochs=1"))
    assert run.directory.metrics_file.read_bytes() == before
    longer = train(tiny("training.epochs=2"))
    assert longer.metrics("end")[-1]["epochs"] == 2
    assert [event["epoch"] for event in longer.metrics("refresh")] == [0, 1]


def test_a_begun_run_needs_the_file_of_its_initial_weights_no_more(tiny, tmp_path):
    weights = tmp_path / "initial.pth"
    torch.save(build_embedder(tiny().model).backbone.state_dict(), weights)
    train(tiny(f"model.weights={weights}", "training.epochs=1", "training.iterations=1"))
    weights.unlink()
    run = train(tiny(f"model.weights={weights}", "training.epochs=2", "training.iterations=1"))
    assert [event["epoch"] for event in run.metrics("epoch")] == [0, 1]
