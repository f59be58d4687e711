"""Memory requirements are checked before a run starts; the estimate is compared with real networks."""

import pytest
import torch

from reid_ray.api import train
from reid_ray.config import ModelConfig, load_config, recipe_names
from reid_ray.errors import ConfigError
from reid_ray.methods import stages_of
from reid_ray.models import build_network
from reid_ray.models.memory_usage import measure_network
from reid_ray.training.datasets import read_datasets
from reid_ray.training.requirements import _measured, check_fits, check_memory, estimate
from reid_ray.training.rundir import RunDirectory

MB, GB = 2**20, 2**30


def config(*overrides):
    return load_config("ice", ["data.layout=synthetic", *overrides])


def really_kept(network, images):
    """Bytes that a real forward pass saves, by the addresses of their storages."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = network(images)
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    assert output is not None
    return sum(size for address, size in storages.items() if address not in weights)


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "resnet18"},
        {"backbone": "resnet18", "pooling": "gem", "bn_group": None},
        {"backbone": "resnet50", "bn_group": 2},
        {"backbone": "ibn_resnet50", "bn_group": 2},
        {"backbone": "resnet18", "branches": [{"pooling": "avg"}, {"pooling": "max", "n_extra": 1}]},
    ],
)
def test_estimate_equals_a_real_forward_pass(settings):
    model = ModelConfig.model_validate({"weights": None, "bn_group": 4, **settings})
    found = measure_network(lambda: build_network(model), 4)
    network = build_network(model).train()
    for height, width in ((128, 64), (96, 96), (80, 45)):
        kept = really_kept(network, torch.randn(4, 3, height, width))
        assert found.activations(4, height, width) == pytest.approx(kept, rel=0.25 if height == 80 else 0.05)
    assert found.weights == sum(t.numel() * t.element_size() for t in network.state_dict().values())
    assert found.trainable == 4 * sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.mark.usefixtures("bf16_on_this_cpu")
@pytest.mark.parametrize(
    "settings",
    [{"backbone": "resnet18", "pooling": "gem"}, {"backbone": "resnet50"}, {"branches": [{"pooling": "avg"}]}],
)
def test_estimate_in_bf16_is_a_close_lower_bound(settings):
    model = ModelConfig.model_validate({"weights": None, "bn_group": 2, **settings})
    kept = really_kept(build_network(model, bf16=True).train(), torch.randn(2, 3, 128, 64))
    estimated = measure_network(lambda: build_network(model)).in_bf16().activations(2, 128, 64)
    assert 0.88 * kept < estimated < kept


def test_a_cpu_without_bfloat16_needs_the_memory_of_float32(monkeypatch):
    monkeypatch.setattr("reid_ray.models.precision.cpu_supports_bf16", lambda: False)
    settings = config()
    datasets = read_datasets(settings)
    float32 = estimate(settings, 960, 640, n_networks=1, precision="float32").total()
    check_memory(settings, datasets, host_bytes=2 * float32)
    with pytest.raises(ConfigError, match="needs at least"):
        check_memory(settings, datasets, host_bytes=estimate(settings, 0, n_networks=1).total())


def test_estimate_changes_neither_random_state_nor_memory():
    model = ModelConfig(weights=None, bn_group=None)
    before = torch.get_rng_state()
    found = measure_network(lambda: build_network(model))
    assert torch.equal(torch.get_rng_state(), before)
    assert found.activations(32, 1_000_000, 128) > 5_000 * GB


@pytest.mark.parametrize("group", [None, 4])
def test_estimate_of_one_worker_of_several(monkeypatch, group):
    """The main process measures alone, whether or not batch-norm groups span the workers in training."""
    base = config(f"model.bn_group={group or 'null'}")
    alone = estimate(base, n_train=200)
    _measured.cache_clear()
    monkeypatch.setattr("reid_ray.models.batchnorm._world_size", lambda: 2)
    assert estimate(base, n_train=200) == alone


def test_each_part_of_the_estimate():
    base = config("data.height=256", "data.width=128", "data.cache_mb=100", "training.precision=float32")
    needed = estimate(base, n_train=200, n_test=10_000, n_views=2)
    image = 3 * 256 * 128
    assert needed.on_host["decoded images (data.cache_mb)"] == 200 * image + 100 * MB
    batch = base.training.batch_size
    assert needed.on_host["batches ahead (data.loader_threads)"] == 4 * 2 * batch * image
    weights = needed.on_device["networks"] / 2
    assert weights == pytest.approx(94.3e6, rel=0.01)  # ResNet-50's trunk and neck
    assert needed.on_device["gradients and moments"] == pytest.approx(3 * weights, rel=0.01)
    assert needed.total() == sum(needed.on_host.values()) + sum(needed.on_device.values())
    assert needed.on_device["activations"] == 2 * estimate(base, n_train=200).on_device["activations"]
    shared = estimate(base, n_train=200, n_test=10_000, n_views=2, n_workers=4)
    assert shared.on_device["activations"] == pytest.approx(needed.on_device["activations"] / 4, rel=0.01)
    double = estimate(
        base.model_copy(update={"training": base.training.model_copy(update={"precision": "float64"})}), 0
    )
    assert double.on_device["networks"] == 2 * needed.on_device["networks"]


def test_absurd_height_is_refused_with_numbers():
    absurd = config("data.height=1000000")
    needed = estimate(absurd, n_train=12_936, n_views=1)
    with pytest.raises(ConfigError) as caught:
        check_fits(needed, absurd, host_bytes=22 * GB)
    message = str(caught.value)
    assert "needs at least" in message
    assert "GiB for activations" in message
    assert "22.0 GiB is available; use smaller images (data.height=1000000" in message


def test_run_that_fits_is_accepted():
    ordinary = config()
    needed = estimate(ordinary, n_train=12_936, n_test=19_281)
    assert 3 * GB < needed.total() < 12 * GB
    check_fits(needed, ordinary, host_bytes=needed.total())
    host, device = sum(needed.on_host.values()), sum(needed.on_device.values())
    check_fits(needed, ordinary, host_bytes=host, device_bytes=device)
    with pytest.raises(ConfigError, match="of GPU memory"):
        check_fits(needed, ordinary, host_bytes=host, device_bytes=device - 1)
    with pytest.raises(ConfigError, match="of memory in each process"):
        check_fits(needed, ordinary, host_bytes=host - 1, device_bytes=device)
    with pytest.raises(ConfigError, match="of memory in each process"):
        check_fits(needed, ordinary, host_bytes=needed.total() - 1)


def test_a_run_that_cannot_fit_is_refused_before_it_begins(tiny):
    absurd = tiny("data.height=1000000", "data.width=8192")
    with pytest.raises(ConfigError, match=r"needs at least [\d,.]+ GiB of memory in each process .* for activations"):
        train(absurd)
    assert not RunDirectory.of(absurd).path.exists()


@pytest.mark.parametrize("recipe", recipe_names())
def test_no_recipe_is_refused_on_a_machine_that_can_train_it(recipe):
    """The least that is counted is far below what a GPU of 24 GB has, for a data set of the size of MSMT17."""
    roots = ["data.root=x", *(["source.root=x"] if recipe.endswith("-uda") else [])]
    found = load_config(recipe, [] if "demo" in recipe else roots)
    stages = stages_of(found)
    images = [stage.config.batch_size for stage in stages]
    assert estimate(found, 32_621, 93_820, n_networks=1, batch_size=max(images)).total() < 24 * GB


def test_more_neighbours_than_images_are_refused_before_the_run_begins(tiny):
    with pytest.raises(ConfigError, match=r"labels\.k1=3000 needs at least 3001 images, but there are 48"):
        train(tiny("labels.k1=3000"))
    assert not RunDirectory.of(tiny()).path.exists()
