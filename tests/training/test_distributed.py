"""Gather, slices and summed gradients: the exact gradient of the global loss for any number of workers."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small_processes import fork_workers
from torch import nn

from reid_ray.training import distributed
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import Labels

SIZES = (2, 4)


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
    distributed.BUCKET_ELEMENTS = 6  # several buckets, each of several gradients
    dist.init_process_group("gloo", init_method=f"file://{folder / f'store-{size}'}", rank=rank, world_size=size)
    context = DistributedContext.current()
    network, classifier, images, targets = build()
    unused = nn.Parameter(torch.zeros(2).double())
    features = context.all_gather(network(context.local_slice(images)))
    (global_loss(features, classifier, targets) / context.size).backward()
    parameters = [*network.parameters(), *classifier.parameters(), unused]
    context.all_reduce_gradients(parameters)
    messages = {
        "broadcast": context.broadcast_object({"from": rank}),
        "gathered": context.all_gather_objects(rank),
        "max": context.all_reduce_max(10 * rank),
        "is main": context.is_main_process,
        "slice": context.local_slice(torch.arange(8)),
        "same labels": labels_error(context, 5),
        "other labels": labels_error(context, rank),
    }
    torch.save(([p.grad for p in parameters], messages), folder / f"{rank}-of-{size}.pt")
    dist.destroy_process_group()


def labels_error(context, number):
    """What `check_same_labels` says of labels in which one number is this worker's."""
    labels = {"train": Labels(0, np.array([0, 1, number])), "source": Labels(0, np.array([0, 1]))}
    try:
        context.check_same_labels(labels)
    except RuntimeError as error:
        return str(error)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Folder with what every worker of every group has found."""
    folder = tmp_path_factory.mktemp("workers")
    for size in SIZES:
        fork_workers(partial(worker, folder=folder), size)
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_those_of_the_global_batch(size, results):
    for rank in range(size):
        gradients, messages = torch.load(results / f"{rank}-of-{size}.pt")
        for found, expected in zip(gradients, expected_gradients(), strict=False):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        assert gradients[-1] is None, "a parameter without a gradient has none on any worker"
        assert messages["broadcast"] == {"from": 0}
        assert messages["gathered"] == list(range(size))
        assert messages["max"] == 10 * (size - 1)
        assert messages["is main"] == (rank == 0)
        assert messages["slice"].tolist() == np.split(np.arange(8), size)[rank].tolist()
        assert messages["same labels"] is None
        assert messages["other labels"].startswith("Workers hold different labels of train, source: ")


def test_one_worker_changes_nothing():
    context = DistributedContext.current()
    batch = torch.randn(4, 2, requires_grad=True)
    assert context.all_gather(batch) is batch
    assert torch.equal(context.local_slice(batch), batch)
    assert context.broadcast_object("x") == "x"
    assert context.all_gather_objects("x") == ["x"]
    assert context.all_reduce_max(3) == 3
    assert context.is_main_process
    assert labels_error(context, 0) is None
