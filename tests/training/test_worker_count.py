"""Promise 1: the worker count is not a hyper-parameter.

One, two and four workers must end with the same weights. In float64, so that rounding, which training amplifies step by
step, cannot hide an error; float32 drift is another matter and is reported in docs/results.md.

This file is also the program of each worker: `python FILE RANK SIZE STORE RECIPE`.
"""

import os
import shutil
import subprocess
import sys

import pytest
import torch.distributed as dist
from small_runs import largest_relative_difference, newest_state, numbers_of

from reid_ray.config import dump_config, load_config
from reid_ray.data.readers import read_dataset
from reid_ray.training.inline import train_inline
from reid_ray.training.rundir import RunDirectory

ITERATIONS = 3


def worker(rank, size, store, recipe):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    config = load_config(recipe)
    train_inline(config, read_dataset(config.data))
    dist.destroy_process_group()


def trained_numbers(config, tmp_path):
    """Every number that the last checkpoint of a run on `runtime.n_workers` processes holds; the run is removed."""
    size, directory = config.runtime.n_workers, RunDirectory.of(config)
    if size == 1:
        train_inline(config, read_dataset(config.data))
    else:
        recipe = tmp_path / f"{config.name}.yaml"
        recipe.write_text(dump_config(config))
        arguments = [str(size), str(tmp_path / f"store-{size}"), str(recipe)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        workers = [
            subprocess.Popen([sys.executable, __file__, str(rank), *arguments], env=environment) for rank in range(size)
        ]
        try:
            assert [process.wait(timeout=240) for process in workers] == [0] * size
        finally:
            for process in workers:
                process.kill()
    state = newest_state(directory)
    assert (state["position"]["epoch"], state["position"]["global_step"]) == (2, 2 * ITERATIONS)
    shutil.rmtree(directory.path)  # half a gigabyte
    return numbers_of(state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        ("model.bn_group=4", "model.bn_buffers=mean"),
        ("model.bn_group=8", "model.bn_buffers=first"),
    ],
    ids=["groups-in-workers", "groups-over-workers"],
)
def test_one_two_and_four_workers_end_with_the_same_weights(tiny, tmp_path, variant):
    common = ("training.precision=float64", f"training.iterations={ITERATIONS}", *variant)

    def numbers(size):
        return trained_numbers(tiny(f"name=workers-{size}", f"runtime.n_workers={size}", *common), tmp_path)

    alone = numbers(1)
    assert largest_relative_difference(alone, numbers(2)) < 1e-6
    assert largest_relative_difference(alone, numbers(4)) < 1e-6


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
