"""Training on Ray: the same weights as without Ray, even if processes are killed; one-line errors."""

import os
import shutil
import signal
import time

import pytest
import torch
from small_processes import finish, outlive, processes_named
from small_runs import assert_bit_equal, newest_state, steps_logged, wait_for
from torchvision.io import write_jpeg

from reid_ray.cli import main
from reid_ray.config import dump_config
from reid_ray.data.readers import read_dataset
from reid_ray.training.metrics import read_metrics
from reid_ray.training.rundir import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RUN = (
    "runtime.n_workers=2",
    "training.precision=float64",
    "evaluation.every=1",
    # A kill must fall inside an epoch, behind a checkpoint, and a signal must reach the driver before the end.
    "training.iterations=28",
    "training.checkpoint_every=6",
)

ACTORS = ("ray::RayTrainWorker", "ray::Extractor", "ray::Labeller")


def at_step(number):
    return lambda event: event["event"] == "step" and event["global_step"] >= number


@pytest.mark.timeout(600)
def test_weights_equal_those_without_ray_even_if_processes_are_killed(
    tiny, reid_ray_process, ray_address, ray_folder, tmp_path
):
    """One run on Ray loses a trainer and an extractor, is interrupted, and resumes on another cluster.

    Its labels obey corrections, which every process reads from the run directory.
    """
    paths = read_dataset(tiny().data).train.paths
    corrections = tmp_path / "corrections.csv"
    corrections.write_text(
        f"path_a,path_b,verdict\n{paths[0]},{paths[20]},same\n{paths[0]},{paths[1]},different\n{paths[30]},,junk\n"
    )
    run = (*RUN, f"labels.constraints={corrections}")
    inline = tiny("name=inline", *run)
    finish(reid_ray_process(inline, n_workers=2))
    expected = newest_state(RunDirectory.of(inline))
    shutil.rmtree(RunDirectory.of(inline).path)

    joined = tiny("name=ray", "runtime.backend=ray", f"runtime.address={ray_address}", *run)
    directory = RunDirectory.of(joined)
    since, process = time.time(), reid_ray_process(joined)
    wait_for(directory, at_step(8), process, since)
    os.kill(processes_named("ray::RayTrainWorker", ray_folder)[0], signal.SIGKILL)
    os.kill(processes_named("ray::Extractor", ray_folder)[0], signal.SIGKILL)
    wait_for(directory, at_step(30), process, since)
    os.kill(process.pid, signal.SIGINT)
    assert "same command" in finish(process, code=130)

    alone = tiny("name=ray", "runtime.backend=ray", *run)
    assert "resuming at epoch 2" in finish(reid_ray_process(alone))
    assert not outlive(["ray::"], tmp_path), "a cluster that the run started outlives it"
    assert_bit_equal(expected, newest_state(directory))
    assert steps_logged(directory) == list(range(1, 57))
    events = read_metrics(directory.metrics_file)
    assert [event["event"] for event in events].count("evaluate") == 2
    assert [event["n_different"] for event in events if event["event"] == "refresh"] == [1, 1]


def test_user_error_on_ray_is_a_one_line_message(tiny, local_ray, ray_folder, tmp_path, capfd):
    """The driver lives on, so the run itself must end its actors."""
    (tmp_path / "crops").mkdir()
    for i in range(8):
        write_jpeg(torch.randint(0, 256, (3, 32, 16), dtype=torch.uint8), str(tmp_path / "crops" / f"{i}.jpg"))
    (tmp_path / "crops" / "3.jpg").write_bytes(b"this is no image")
    config = tiny("runtime.backend=ray", "data.layout=folder", f"data.root={tmp_path / 'crops'}")
    (tmp_path / "run.yaml").write_text(dump_config(config), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tmp_path / "run.yaml")])
    output = "".join(capfd.readouterr())
    assert ended.value.code == 2, output
    assert "3.jpg" in output
    assert "Traceback" not in output, output
    assert not outlive(ACTORS, ray_folder), "actors outlive the run that made them"
