"""The code of a step, traced for a GPU on a machine that has none.

Under PyTorch's fake tensors modules live on the device `cuda` and kernels compute shapes only. That finds tensors on
two devices, operators that a GPU lacks, and everything inside a step whose outcome the host has to wait for (`unique`,
`nonzero`, `item`). Backward passes need a real device: tests/gpu has those.
"""

import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_system
from small_runs import METHOD_RUNS, WIDTH, tiny_config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from reid_ray.config import load_config
from reid_ray.data.views import PixelBatch
from reid_ray.inference.folding import for_extraction
from reid_ray.labels.neighbours import device as device_search
from reid_ray.labels.neighbours import kernels
from reid_ray.methods import Batch, Inputs, build_method, stages_of
from reid_ray.models import update_teacher
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import Labels

CUDA = torch.device("cuda")
KEY = (0, 5, 0)
N_CLUSTERS, N_CAMERAS = 4, 2


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CUDA is not available.*")
        yield


def move_to_fake_cuda(*modules):
    """Put parameters and buffers on the fake device; what modules share they still share."""
    moved = {}
    for module in (part for each in modules for part in each.modules()):
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    fake = nn.Parameter(fake, requires_grad=tensor.requires_grad) if is_parameter else fake
                    moved[id(tensor)] = fake, tensor  # the tensor too, so that its id is not used again
                tensors[name] = moved[id(tensor)][0]


def labels_of(stream, dim, n):
    labels = np.arange(n) % N_CLUSTERS
    rows = np.zeros((N_CLUSTERS * N_CAMERAS, dim), dtype=np.float32)
    features = np.zeros((n, dim), dtype=np.float32) if "features" in stream.labels.needs else None
    proxies = np.tile(np.arange(N_CLUSTERS), N_CAMERAS), np.repeat(np.arange(N_CAMERAS), N_CLUSTERS)
    return Labels(0, labels, rows[:N_CLUSTERS], rows, *proxies, features=features)


def fake_inputs(stream, n, *, feature_dim=0, n_attributes=1):
    def view(name):
        if name == "feature":
            return torch.empty(n, feature_dim, device=CUDA)
        if name.startswith("projection@"):
            pixels = torch.empty(n, 1, 32, 16, dtype=torch.uint8)
            return PixelBatch(pixels, None).to(CUDA, torch.float32)
        frames = (stream.frames,) if stream.frames > 1 else ()
        pixels = torch.empty(n, *frames, 3, 32, 16, dtype=torch.uint8)
        erased = torch.empty(n, *frames, 4, dtype=torch.int64)
        return PixelBatch(pixels, erased).to(CUDA, torch.float32)

    numbers = torch.empty(n, dtype=torch.int64, device=CUDA)
    columns = {"camid": numbers, **dict.fromkeys(stream.columns, numbers)}
    if "attributes" in stream.columns:
        columns["attributes"] = numbers[:, None].expand(-1, n_attributes)
    return Inputs({key: view(name) for key, name in stream.views.items()}, numbers, numbers, columns)


TOY = ("toy", (*toy_system.OVERRIDES, f"data.root={os.devnull}"))


@pytest.mark.parametrize(("name", "overrides"), [*METHOD_RUNS.items(), TOY], ids=[*METHOD_RUNS, "toy"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_step_of_every_stage(tmp_path, monkeypatch, name, overrides, precision):
    # A gradient inside a loss needs a real device, too: here it has a shape only.
    monkeypatch.setattr(torch.autograd, "grad", lambda _, inputs, **options: (torch.empty_like(inputs),))
    overrides = [*overrides, f"training.precision={precision}"]
    config = load_config("demo", overrides) if name == "toy" else tiny_config(tmp_path, *overrides)
    method = build_method(config, DistributedContext())
    dims = {stage.name: method.network(config, stage.retriever).dim for stage in stages_of(config)}
    n_attributes = len(getattr(config.method, "attribute_values", None) or [0])
    with FakeTensorMode():
        move_to_fake_cuda(*method.modules.values())
        for stage in stages_of(config):
            n = stage.config.batch_size
            labels = {stream: labels_of(spec, dims[stage.name], n) for stream, spec in stage.streams.items()}
            method.on_labels(stage.name, labels)
            sizes = {"feature_dim": dims[stage.name], "n_attributes": n_attributes}
            batch = Batch({stream: fake_inputs(spec, n, **sizes) for stream, spec in stage.streams.items()}, KEY)
            for update in method.updates(stage.name, batch):
                assert update.loss.device.type == "cuda"
                assert update.loss.shape == ()
                assert {term.device.type for term in update.terms.values()} == {"cuda"}
            for mean, followed in method.ema_pairs(stage.name):
                update_teacher(mean, followed, 0.9)


@pytest.mark.parametrize("branches", ["[]", "[{pooling: avg}, {pooling: max, n_extra: 1}]"])
def test_extraction(tmp_path, branches):
    config = tiny_config(tmp_path, "method={name: source}", f"model.branches={branches}", "training.precision=float32")
    model = for_extraction(build_method(config, DistributedContext()).modules["student"])
    with FakeTensorMode(), torch.inference_mode():
        move_to_fake_cuda(model)
        images = PixelBatch(torch.empty(6, 3, 32, 16, dtype=torch.uint8), None).to(CUDA, torch.float32)
        features = model.embed(images)
    assert features.device.type == "cuda"
    assert features.shape == (6, model.dim)


@pytest.mark.parametrize("relation", [kernels.ANY, kernels.SAME, kernels.OTHER])
@pytest.mark.parametrize("bf16", [False, True])
def test_the_device_s_part_of_the_neighbour_search(relation, bf16):
    with FakeTensorMode(shape_env=ShapeEnv()):
        rows, columns = torch.empty(8, 16, device=CUDA), torch.empty(32, 16, device=CUDA)
        best = device_search.no_candidates(8, 12, CUDA)
        offsets, bounds = torch.empty(32, device=CUDA), torch.empty(8, device=CUDA)
        similarities = device_search.block_similarities(rows, columns, offsets, bf16=bf16)
        own, others = torch.arange(8, device=CUDA), torch.arange(32, device=CUDA)
        groups = torch.empty(40, dtype=torch.int64, device=CUDA)
        best = device_search.offer(best, similarities, own, others, groups, relation=relation, sign=-1.0)
        counts = device_search.count_candidates(best.values, bounds, 3)
        at, rank = torch.nonzero(best.rows >= 0, as_tuple=True)
        exact = device_search.exact_similarities(rows, columns, at, best.rows[at, rank])
        assert {tensor.device.type for tensor in (*best, counts, exact)} == {"cuda"}
        assert (best.values.shape, counts.shape) == ((8, 12), (8,))


def test_a_step_that_asks_the_device_is_found(tmp_path):
    """What the tests above rely on: fake tensors refuse an operator whose outcome the host would wait for."""
    config = tiny_config(tmp_path, "training.precision=float32")
    method = build_method(config, DistributedContext())
    stage = stages_of(config)[0]
    spec = stage.streams["train"]
    with FakeTensorMode():
        move_to_fake_cuda(*method.modules.values())
        inputs = fake_inputs(spec, stage.config.batch_size)
        with pytest.raises(Exception, match="_unique2"):
            torch.unique(inputs.labels)
        views = {name: torch.empty_like(view, device="cpu") for name, view in inputs.views.items()}
        method.on_labels("main", {"train": labels_of(spec, WIDTH, stage.config.batch_size)})
        with pytest.raises(RuntimeError, match="device"):
            next(method.updates("main", Batch({"train": replace(inputs, views=views)}, KEY)))
