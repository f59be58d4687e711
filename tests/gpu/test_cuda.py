"""Tests that need a CUDA device: `pytest -m gpu`; skipped on machines without one.

A short run of every method on the device, resumed bit-equal or close; extraction and labels against those of the CPU.
"""

import numpy as np
import pytest
import torch
from small_runs import METHOD_RUNS, largest_relative_difference, newest_state, numbers_of

from reid_ray.api import train
from reid_ray.labels import jaccard_graph, nearest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("method", METHOD_RUNS)
def test_float64_training_on_the_device_is_that_of_the_cpu(tiny, method):
    options = (*METHOD_RUNS[method], "training.precision=float64", "training.iterations=2")
    numbers = {}
    for device in ("cpu", "cuda"):
        run = train(tiny(f"name={device}", f"runtime.device={device}", *options))
        numbers[device] = numbers_of(newest_state(run.directory))
    assert largest_relative_difference(numbers["cpu"], numbers["cuda"]) < 1e-6


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_features_on_the_device_are_those_of_the_cpu(tiny, precision):
    run = train(tiny("training.epochs=1", "runtime.device=cuda", f"training.precision={precision}"))
    on_device = run.embed_table(run.dataset.query)
    run.model.cpu()
    run._fast = None
    np.testing.assert_allclose(
        on_device, run.embed_table(run.dataset.query), atol=2e-2 if precision == "bf16" else 1e-4
    )


@pytest.mark.parametrize("bf16", [False, True])
def test_neighbours_on_the_device_are_exact(bf16):
    features = np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    expected = nearest(features, 20, device="cpu", bf16=False)
    found = nearest(features, 20, device="cuda", bf16=bf16)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-7)


def test_the_graph_on_the_device_is_that_of_the_cpu():
    features = np.random.default_rng(1).normal(size=(2000, 32)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    first, second = (
        jaccard_graph(features, k1=20, k2=6, max_distance=0.6, device=device) for device in ("cpu", "cuda")
    )
    assert (first != second).nnz == 0
