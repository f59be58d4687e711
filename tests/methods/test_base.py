"""A batch's own randomness, and the registry of methods."""

import numpy as np
import pytest
import torch
from small_methods import inputs, make_batch

from reid_ray.config import METHOD_CONFIGS
from reid_ray.methods import METHODS, Method, build_method, empty_network, register_method, stages_of
from reid_ray.training.distributed import DistributedContext


def batch(key=(0, 1, 2)):
    return make_batch(inputs({}, torch.arange(4), camids=torch.tensor([3, 1, 3, 1])), key=key)


def test_a_stream_is_found_by_name():
    one = batch()
    assert one["train"] is one.streams["train"]
    assert one["train"].camids.tolist() == [3, 1, 3, 1]


@pytest.mark.parametrize("place", range(3))
def test_draws_depend_on_seed_epoch_step_and_name_only(place):
    key = [5, 6, 7]
    first = batch(tuple(key))
    drawn = first.rng("noise").random(5)
    assert (first.rng("noise").random(5) == drawn).all()
    assert (batch(tuple(key)).rng("noise").random(5) == drawn).all()
    assert (first.rng("other").random(5) != drawn).all()
    assert (first.rng().random(5) != drawn).all()
    key[place] += 1
    assert (batch(tuple(key)).rng("noise").random(5) != drawn).all()


def test_noise_is_normal_and_in_the_form_of_what_it_is_added_to():
    noise = batch().noise("code", (2000, 3), like=torch.empty(0, dtype=torch.float64))
    assert noise.shape == (2000, 3)
    assert noise.dtype == torch.float64
    np.testing.assert_array_equal(noise.numpy(), batch().rng("code").standard_normal((2000, 3)))
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05
    assert batch().noise("code", (2,), like=torch.empty(0)).dtype == torch.float32


def test_a_method_is_found_by_the_name_of_its_settings(tiny):
    assert {name for name, cls in METHODS.items() if cls.__module__.startswith("reid_ray.")} <= METHOD_CONFIGS.keys()
    config = tiny("method={name: cap}")
    assert type(build_method(config, DistributedContext())) is METHODS["cap"]

    @register_method("another")
    class Another(Method):
        pass

    assert METHODS.pop("another") is Another


@pytest.mark.parametrize(("name", "retriever"), [("ice", "teacher"), ("mmt", "teacher"), ("spcl", "student")])
def test_a_retrieval_network_is_made_without_the_weights_of_the_run(tiny, name, retriever):
    """In any process: it neither needs the file nor downloads."""
    config = tiny(f"method={{name: {name}}}", "model.weights=nowhere.pt")
    assert stages_of(config)[-1].retriever == retriever
    network = empty_network(config)
    expected = build_method(tiny(f"method={{name: {name}}}"), DistributedContext()).modules[retriever]
    assert network.state_dict().keys() == expected.state_dict().keys()
    assert network.dim == expected.dim
