"""Promise 1: the worker count is not a hyper-parameter.

One, two and four workers must end with the same weights, whatever the method. In float64, so that rounding, which
training amplifies step by step, cannot hide an error; float32 drift is another matter and is reported in
docs/results.md.

This file is also the program of each worker: `python FILE RANK SIZE FOLDER RECIPES…`. Starting a process takes longer
than a run, so one group of workers makes all runs of its size; and of their checkpoints, gigabytes in float64, only the
numbers to compare are kept.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small_runs import METHOD_RUNS, largest_relative_difference, numbers_of, tiny_config

from reid_ray.config import dump_config, load_config
from reid_ray.methods import METHODS, stages_of
from reid_ray.training.checkpoint import Checkpoint
from reid_ray.training.datasets import read_datasets
from reid_ray.training.inline import train_inline

ITERATIONS = 2

RUNS = {name: ("model.bn_group=4", "model.bn_buffers=mean", *options) for name, options in METHOD_RUNS.items()}
RUNS["groups-over-workers"] = ("model.bn_group=8", "model.bn_buffers=first")
RUNS["branches-over-workers"] = ("model.bn_group=16", "model.bn_buffers=first", *METHOD_RUNS["abmt"])
"""Every method with BN groups that lie in one worker, and some with groups that span them."""


def worker(rank, size, folder, recipes):
    kept = {}

    def keep_numbers(checkpoint, _folder, _keep):
        state = checkpoint.state
        kept[name] = (state.stage, state.epoch, state.step, numbers_of(vars(checkpoint)))

    Checkpoint.save = keep_numbers
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=size)
    for recipe in recipes:
        config = load_config(recipe)
        name = config.name
        train_inline(config, read_datasets(config))
    dist.destroy_process_group()
    if rank == 0:
        torch.save(kept, folder / "numbers.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`trained(size)`: by run, every number that its last checkpoint holds after training on `size` workers."""
    known = {}

    def train(size):
        if size not in known:
            known[size] = trained_numbers(size, tmp_path_factory.mktemp(f"workers-{size}"))
        return known[size]

    return train


def trained_numbers(size, folder):
    common = ("training.precision=float64", f"training.iterations={ITERATIONS}", f"runtime.n_workers={size}")
    configs = {name: tiny_config(folder, f"name={name}", *options, *common) for name, options in RUNS.items()}
    return train_together(configs, size, folder)


def train_together(configs, size, folder):
    """Train on as many processes, one configuration after the other; what each ends with, by name."""
    recipes = []
    for config in configs.values():
        recipes.append(folder / f"{config.name}.yaml")
        recipes[-1].write_text(dump_config(config))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [str(size), str(folder), *map(str, recipes)]
    workers = [
        subprocess.Popen([sys.executable, __file__, str(rank), *arguments], env=environment) for rank in range(size)
    ]
    try:
        assert [process.wait(timeout=600) for process in workers] == [0] * size
    finally:
        for process in workers:
            process.kill()
    kept = torch.load(folder / "numbers.pt")
    shutil.rmtree(folder)  # exported models: gigabytes too
    ends = {name: (len(stages_of(config)) - 1, 2, 0) for name, config in configs.items()}
    assert {name: tuple(position) for name, (*position, _) in kept.items()} == ends
    return {name: numbers for name, (*_, numbers) in kept.items()}


def test_every_method_is_tried(tmp_path):
    own = {name for name, cls in METHODS.items() if cls.__module__.startswith("reid_ray.")}
    assert {tiny_config(tmp_path, *options).method.name for options in METHOD_RUNS.values()} == own


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("run", RUNS)
def test_workers_end_with_the_weights_of_one(trained, run, size):
    assert largest_relative_difference(trained(1)[run], trained(size)[run]) < 1e-6


@pytest.mark.slow
def test_when_checkpoints_are_written_changes_nothing(tmp_path):
    """In float32 and to the last bit, though a checkpoint merges the running statistics of the workers."""
    common = ("training.iterations=4", "runtime.n_workers=2", "model.bn_group=4", "model.bn_buffers=mean")
    configs = {
        name: tiny_config(tmp_path, f"name={name}", f"training.checkpoint_every={every}", *common)
        for name, every in (("often", 1), ("seldom", 100))
    }
    often, seldom = train_together(configs, 2, tmp_path).values()
    assert often.keys() == seldom.keys()
    assert all(torch.equal(often[name], seldom[name]) for name in often)


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
