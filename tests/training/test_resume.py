"""Promise 2: killed is not lost. A run killed anywhere and started again ends, bit for bit, as one that was not."""

import os
import signal
import time

import pytest
import torch

from reid_ray.config import dump_config
from reid_ray.training.inline import train_inline
from reid_ray.training.metrics import read_metrics
from reid_ray.training.rundir import RunDirectory


def checkpoint(directory):
    return torch.load(sorted(directory.checkpoints.glob("step-*.pt"))[-1], weights_only=True)


def assert_bit_equal(first, second):
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            if key != "metrics":  # bytes of a log that holds seconds
                assert_bit_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        for a, b in zip(first, second, strict=True):
            assert_bit_equal(a, b)
    else:
        assert first == second


def wait_for(directory, wanted, process):
    """Until the run's log holds an event that `wanted` accepts."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(wanted(event) for event in read_metrics(directory.metrics_file)):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    raise AssertionError("the run never got there")


def start(config, reid_ray_process):
    recipe = RunDirectory.of(config).path.parent / f"{config.name}.yaml"
    recipe.write_text(dump_config(config))
    return reid_ray_process("train", str(recipe))


MOMENTS = {
    "during the first refresh": lambda event: event["event"] == "start",
    "inside the first epoch": lambda event: event["event"] == "step" and event["global_step"] == 3,
    "between epochs": lambda event: event["event"] == "epoch" and event["epoch"] == 0,
    "inside the second epoch": lambda event: event["event"] == "step" and event["global_step"] == 5,
}


@pytest.fixture(scope="module")
def undisturbed():
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_started_again_ends_bit_equal(moment, tiny, reid_ray_process, undisturbed):
    name = moment.replace(" ", "-")
    if not undisturbed:
        whole = tiny("name=undisturbed")
        process = start(whole, reid_ray_process)
        assert process.wait(timeout=120) == 0, process.communicate()[0]
        undisturbed.update(checkpoint(RunDirectory.of(whole)))
    config = tiny(f"name={name}")
    process = start(config, reid_ray_process)
    wait_for(RunDirectory.of(config), MOMENTS[moment], process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = start(config, reid_ray_process)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert_bit_equal(undisturbed, checkpoint(RunDirectory.of(config)))
    events = read_metrics(RunDirectory.of(config).metrics_file)
    steps = [event["global_step"] for event in events if event["event"] == "step"]
    assert steps == list(range(1, 9)), "no step is logged twice, and none is missing"
    assert not list(RunDirectory.of(config).path.rglob("*.tmp"))


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on_where_it_was(tiny, reid_ray_process):
    config = tiny("name=interrupted", "training.iterations=40", "training.checkpoint_every=1000", "training.epochs=1")
    directory = RunDirectory.of(config)
    process = start(config, reid_ray_process)
    wait_for(directory, lambda event: event["event"] == "step" and event["global_step"] >= 5, process)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "same command" in output
    assert checkpoint(directory)["position"]["step"] >= 5  # not back at the epoch's start
    again = start(config, reid_ray_process)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    whole = tiny("name=whole", "training.iterations=40", "training.checkpoint_every=1000", "training.epochs=1")
    assert start(whole, reid_ray_process).wait(timeout=120) == 0
    assert_bit_equal(checkpoint(RunDirectory.of(whole)), checkpoint(directory))


def test_a_damaged_checkpoint_is_passed_over(tiny):
    from reid_ray.api import train

    config = tiny("name=damaged")
    train_whole = train(config)
    expected = checkpoint(train_whole.directory)
    newest = sorted(train_whole.directory.checkpoints.glob("step-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    train_whole.directory.metrics_file.write_text(
        "\n".join(train_whole.directory.metrics_file.read_text().splitlines()[:-1]) + "\n"
    )
    with pytest.warns(UserWarning, match="is damaged"):
        train_inline(config, train_whole.dataset)
    assert_bit_equal(expected, checkpoint(train_whole.directory))


def test_a_finished_run_is_not_trained_again_and_more_epochs_continue_it(tiny):
    from reid_ray.api import train

    run = train(tiny("training.epochs=1"))
    before = run.directory.metrics_file.read_bytes()
    train(tiny("training.epochs=1"))
    assert run.directory.metrics_file.read_bytes() == before
    longer = train(tiny("training.epochs=2"))
    assert longer.metrics("end")[-1]["epochs"] == 2
    assert [event["epoch"] for event in longer.metrics("refresh")] == [0, 1]
