"""Gather, slices and summed gradients: the exact gradient of the global loss for any number of workers.

This file is also the program of each worker: `python FILE RANK SIZE FOLDER`.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from reid_ray.training import world as world_module
from reid_ray.training.world import World


def global_loss(features, classifier, targets):
    """A loss that mixes all images of the global batch and has parameters after the gather."""
    similarity = features @ features.T
    return nn.functional.cross_entropy(classifier(features), targets) + similarity.square().mean()


def build():
    torch.manual_seed(0)
    network, classifier = nn.Linear(5, 3).double(), nn.Linear(3, 4).double()
    return network, classifier, torch.randn(8, 5).double(), torch.arange(8) % 4


def expected_gradients():
    network, classifier, images, targets = build()
    global_loss(network(images), classifier, targets).backward()
    return [p.grad for p in (*network.parameters(), *classifier.parameters())]


def worker(rank, size, folder):
    torch.set_num_threads(1)
    world_module.BUCKET_ELEMENTS = 6  # several buckets, each of several gradients
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=size)
    world = World.current()
    network, classifier, images, targets = build()
    unused = nn.Parameter(torch.zeros(2).double())
    features = world.gather(network(world.local(images)))
    (global_loss(features, classifier, targets) / world.size).backward()
    parameters = [*network.parameters(), *classifier.parameters(), unused]
    world.sum_gradients(parameters)
    told = world.broadcast({"from": rank})
    everyone = world.gather_objects(rank)
    torch.save(([p.grad for p in parameters], told, everyone), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 4])
def test_gradients_are_those_of_the_global_batch(size, tmp_path):
    command = [sys.executable, __file__]
    workers = [subprocess.Popen([*command, str(rank), str(size), str(tmp_path)]) for rank in range(size)]
    assert [process.wait(timeout=120) for process in workers] == [0] * size
    for rank in range(size):
        gradients, told, everyone = torch.load(tmp_path / f"{rank}.pt")
        for found, expected in zip(gradients, expected_gradients(), strict=False):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        assert torch.equal(gradients[-1], torch.zeros(2).double())
        assert told == {"from": 0}
        assert everyone == list(range(size))


def test_a_world_of_one_changes_nothing():
    world = World.current()
    batch = torch.randn(4, 2, requires_grad=True)
    assert world.gather(batch) is batch
    assert torch.equal(world.local(batch), batch)
    assert world.broadcast("x") == "x"


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
