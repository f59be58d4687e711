"""Training through Ray: the same weights as without it, after whatever is killed, and sentences for mistakes."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from reid_ray.config import dump_config
from reid_ray.training.metrics import read_metrics
from reid_ray.training.rundir import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def checkpoint(directory):
    return torch.load(sorted(directory.checkpoints.glob("step-*.pt"))[-1], weights_only=True)


def largest_relative_difference(first, second):
    return max(
        float((a.double() - second["networks"][name][key].double()).norm() / a.double().norm().clamp_min(1e-12))
        for name, network in first["networks"].items()
        for key, a in network.items()
    )


def on_ray(tiny, reid_ray_process, *overrides):
    """Start a run on Ray with two workers; its directory and its process."""
    config = tiny("runtime.backend=ray", "runtime.n_workers=2", "training.precision=float64", *overrides)
    recipe = RunDirectory.of(config).path.parent / f"{config.name}.yaml"
    recipe.write_text(dump_config(config))
    return RunDirectory.of(config), reid_ray_process("train", str(recipe))


def finish(process, code=0):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    return output


def processes_named(name, home):
    """Process ids of Ray processes of one test, by title and home directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if title.startswith(name) and f"HOME={home}\0".encode() in environment:
            found.append(int(entry.name))
    return found


def wait_for_step(directory, step, process):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        events = read_metrics(directory.metrics_file)
        if any(event["event"] == "step" and event["global_step"] >= step for event in events):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    raise AssertionError("the run never got there")


@pytest.mark.timeout(600)
def test_ray_adds_nothing_to_the_weights_and_survives_its_processes(tiny, reid_ray_process, tmp_path):
    # More iterations than elsewhere, so that a kill falls inside an epoch.
    longer = ("training.iterations=30", "training.checkpoint_every=10", "evaluation.every=1")

    inline = tiny("name=inline", "runtime.n_workers=2", "training.precision=float64", *longer)
    recipe = tmp_path / "inline.yaml"
    recipe.write_text(dump_config(inline))
    finish(reid_ray_process("train", str(recipe), n_workers=2))
    expected = checkpoint(RunDirectory.of(inline))

    directory, process = on_ray(tiny, reid_ray_process, "name=calm", *longer)
    output = finish(process)
    assert "Traceback" not in output
    calm = checkpoint(directory)
    assert largest_relative_difference(expected, calm) == 0.0
    assert [event["event"] for event in read_metrics(directory.metrics_file)].count("evaluate") == 2
    assert not processes_named("ray::", tmp_path), "actors outlive the run"

    directory, process = on_ray(tiny, reid_ray_process, "name=killed", *longer)
    wait_for_step(directory, 15, process)
    os.kill(processes_named("ray::RayTrainWorker", tmp_path)[0], signal.SIGKILL)
    os.kill(processes_named("ray::Extractor", tmp_path)[0], signal.SIGKILL)
    finish(process)
    killed = checkpoint(directory)
    assert largest_relative_difference(calm, killed) == 0.0
    steps = [event["global_step"] for event in read_metrics(directory.metrics_file) if event["event"] == "step"]
    assert steps == list(range(1, 61))

    directory, process = on_ray(tiny, reid_ray_process, "name=interrupted", *longer)
    wait_for_step(directory, 35, process)
    os.kill(process.pid, signal.SIGINT)
    output = finish(process, code=130)
    assert "same command" in output
    _, process = on_ray(tiny, reid_ray_process, "name=interrupted", *longer)
    finish(process)
    assert largest_relative_difference(calm, checkpoint(directory)) == 0.0


def test_a_mistake_met_on_ray_is_one_sentence(tiny, reid_ray_process, tmp_path):
    from torchvision.io import write_jpeg

    (tmp_path / "crops").mkdir()
    for i in range(6):
        write_jpeg(torch.randint(0, 256, (3, 32, 16), dtype=torch.uint8), str(tmp_path / "crops" / f"{i}.jpg"))
    (tmp_path / "crops" / "3.jpg").write_bytes(b"this is no image")
    _, process = on_ray(tiny, reid_ray_process, "data.layout=folder", f"data.root={tmp_path / 'crops'}")
    output = finish(process, code=2)
    assert "3.jpg" in output
    assert "Traceback" not in output
