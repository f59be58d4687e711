"""What all tests share: a world small enough to train in seconds, and a way to run the command line in a process."""

import os
import subprocess
import sys

import pytest

from reid_ray.config import load_config

TINY = (
    "data.height=32",
    "data.width=16",
    "data.loader_threads=1",
    "data.synthetic.n_train_ids=8",
    "data.synthetic.n_test_ids=4",
    "data.synthetic.n_cameras=2",
    "data.synthetic.images_per_id=6",
    "data.synthetic.height=64",
    "data.synthetic.width=32",
    "labels.k1=6",
    "labels.k2=2",
    "labels.eps=0.7",
    "labels.min_samples=2",
    "training.n_pids=4",
    "training.n_instances=4",
    "training.epochs=2",
    "training.iterations=4",
    "training.log_every=1",
    "training.checkpoint_every=2",
    "model.bn_group=4",
    "evaluation.every=0",
    "evaluation.at_start=false",
    "runtime.n_workers=1",
    "runtime.max_failures=2",
)
"""Overrides of the `demo` recipe that make an epoch take about a second."""


@pytest.fixture
def tiny(tmp_path):
    """`tiny("key=value", …)`: the configuration of a small run in `tmp_path`, inline unless told otherwise."""

    def make(*overrides):
        return load_config("demo", [*TINY, "runtime.backend=inline", f"output={tmp_path}", *overrides])

    return make


@pytest.fixture
def reid_ray_process(tmp_path, tmp_path_factory):
    """`reid_ray_process(*arguments, n_workers=1)`: start `reid-ray` in a process group of its own."""
    started = []

    def start(*arguments, n_workers=1):
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_workers}"]
        command = [sys.executable, *(torchrun if n_workers > 1 else []), "-m", "reid_ray", *arguments]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HOME": str(tmp_path),
            "MPLCONFIGDIR": str(tmp_path_factory.getbasetemp() / "matplotlib"),  # one font cache for all processes
            "RAY_AUTH_MODE": "disabled",
        }
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
