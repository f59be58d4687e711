"""Two domains in one network: what is shared, and what each has for itself."""

from __future__ import annotations

import torch
from small_runs import BRANCHES, tiny_config
from torch import nn

from reid_ray.models import GroupBatchNorm, build_network, with_domain_bn


def both(tmp_path, *options):
    torch.manual_seed(0)
    network = build_network(tiny_config(tmp_path, *options).model, bf16=False)
    return network, with_domain_bn(network)


def norm_parameters(network: nn.Module) -> set[str]:
    layers = {name for name, layer in network.named_modules() if isinstance(layer, GroupBatchNorm)}
    return {name for name, _ in network.named_parameters() if name.rpartition(".")[0] in layers}


def test_all_weights_are_shared_but_those_of_batch_norms(tmp_path):
    network, other = both(tmp_path, BRANCHES)
    assert network.state_dict().keys() == other.state_dict().keys()
    apart = {
        name
        for (name, mine), theirs in zip(network.named_parameters(), other.parameters(), strict=True)
        if mine is not theirs
    }
    assert apart == norm_parameters(network)
    assert len(apart) > 40
    assert not any(a is b for a, b in zip(network.buffers(), other.buffers(), strict=True))


def test_they_stay_together_when_they_are_moved_and_loaded(tmp_path):
    network, other = both(tmp_path)
    for each in (network, other):
        each.to(dtype=torch.float64, memory_format=torch.channels_last)
    fresh, _ = both(tmp_path)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1)
    network.load_state_dict(fresh.state_dict())
    for name, theirs in other.named_parameters():
        same = torch.equal(theirs, network.get_parameter(name))
        assert same == (name not in norm_parameters(network)), name


def test_a_step_on_one_domain_leaves_the_statistics_of_the_other(tmp_path):
    network, other = both(tmp_path)
    images = torch.randn(4, 3, 32, 16)
    torch.testing.assert_close(network(images).feature, other(images).feature)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    other(images).feature.square().sum().backward()
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    statistics = {"running_mean", "running_var", "num_batches_tracked"}
    assert moved
    assert not moved & norm_parameters(network)
    assert not {name for name in moved if name.rpartition(".")[2] in statistics}
