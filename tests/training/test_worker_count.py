"""Promise 1: the worker count is not a hyper-parameter.

One, two and four workers must end with the same weights, whatever the method. In float64, so that rounding, which
training amplifies step by step, cannot hide an error; float32 drift is another matter and is reported in
docs/results.md.

Starting a process takes longer than a run, so a group of workers makes all runs of its size; and of their checkpoints
and exports, gigabytes in float64, only the numbers to compare are kept.
"""

import shutil
from functools import partial

import pytest
import torch
import torch.distributed as dist
from small_processes import fork_workers
from small_runs import METHOD_RUNS, largest_relative_difference, numbers_of, tiny_config

from reid_ray.config import dump_config, load_config
from reid_ray.methods import METHODS, stages_of
from reid_ray.training import loop
from reid_ray.training.checkpoint import Checkpoint
from reid_ray.training.datasets import read_datasets
from reid_ray.training.inline import train_inline

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all runs

ITERATIONS = 2
SIZES = (1, 2, 4)

RUNS = {name: ("model.bn_group=4", "model.bn_buffers=mean", *options) for name, options in METHOD_RUNS.items()}
RUNS["groups-over-workers"] = ("model.bn_group=8", "model.bn_buffers=first")
RUNS["branches-over-workers"] = ("model.bn_group=16", "model.bn_buffers=first", *METHOD_RUNS["abmt"])
"""Every method with BN groups that lie in one worker, and some with groups that span them."""


OFTEN_AND_SELDOM = {"often": 1, "seldom": 100}
"""Steps between the checkpoints of two runs that are otherwise the same."""


def configs_of(size, folder):
    """Every run on `size` workers; on two also those that differ in when checkpoints are written."""
    common = ("training.precision=float64", f"training.iterations={ITERATIONS}", f"runtime.n_workers={size}")
    configs = [tiny_config(folder, f"name={name}", *options, *common) for name, options in RUNS.items()]
    if size == 2:
        options = ("training.iterations=4", "runtime.n_workers=2", "model.bn_group=4", "model.bn_buffers=mean")
        configs += [
            tiny_config(folder, f"name={name}", f"training.checkpoint_every={every}", *options)
            for name, every in OFTEN_AND_SELDOM.items()
        ]
    return configs


def worker(rank, size, folder):
    kept = {}

    def keep_numbers(checkpoint, _folder, _keep):
        state = checkpoint.state
        kept[name] = (state.stage, state.epoch, state.step, numbers_of(vars(checkpoint)))

    Checkpoint.save = keep_numbers
    loop.save_exported = lambda *_: None
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=size)
    for recipe in sorted(folder.glob("*.yaml")):
        config = load_config(recipe)
        name = config.name
        train_inline(config, read_datasets(config))
    dist.destroy_process_group()
    if rank == 0:
        torch.save(kept, folder / "numbers.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By number of workers and run: every number that its last checkpoint holds."""
    folder = tmp_path_factory.mktemp("workers")
    ends = {}
    for size in SIZES:
        (folder / str(size)).mkdir()
        for config in configs_of(size, folder / str(size)):
            (folder / str(size) / f"{config.name}.yaml").write_text(dump_config(config))
            ends[size, config.name] = (len(stages_of(config)) - 1, 2, 0)
        fork_workers(partial(worker, folder=folder / str(size)), size)
    kept = {
        (size, name): found for size in SIZES for name, found in torch.load(folder / str(size) / "numbers.pt").items()
    }
    shutil.rmtree(folder)
    assert {key: tuple(position) for key, (*position, _) in kept.items()} == ends
    return {key: numbers for key, (*_, numbers) in kept.items()}


def test_every_method_is_tried(tmp_path):
    own = {name for name, cls in METHODS.items() if cls.__module__.startswith("reid_ray.")}
    assert {tiny_config(tmp_path, *options).method.name for options in METHOD_RUNS.values()} == own


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("run", RUNS)
def test_workers_end_with_the_weights_of_one(trained, run, size):
    assert largest_relative_difference(trained[1, run], trained[size, run]) < 1e-6


@pytest.mark.slow
def test_when_checkpoints_are_written_changes_nothing(trained):
    """In float32 and to the last bit, though a checkpoint merges the running statistics of the workers."""
    often, seldom = (trained[2, name] for name in OFTEN_AND_SELDOM)
    assert often.keys() == seldom.keys()
    assert all(torch.equal(often[name], seldom[name]) for name in often)
