"""Initial weights: one for all networks of a method, or a list with one for each."""

import pytest

from reid_ray.config import ModelConfig, load_config


@pytest.mark.parametrize("weights", ["torchvision", "file.pt", None])
def test_one_setting_is_that_of_all_networks(weights):
    model = ModelConfig(weights=weights)
    assert [model.weights_of(network) for network in range(3)] == [weights] * 3
    assert model.weights_of() == weights


def test_a_list_has_one_for_each_network_and_those_beyond_it_are_random():
    model = load_config("demo", ["model.weights=[a.pt, b.pt]"]).model
    assert model.weights == ("a.pt", "b.pt")
    assert [model.weights_of(network) for network in range(3)] == ["a.pt", "b.pt", None]
