"""BN groups in one process, against torch's own batch norm run on one chunk after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from reid_ray.errors import ConfigError
from reid_ray.models import GroupBatchNorm, prepare_bn_groups, synchronise_buffers

SHAPES = [(12, 5), (12, 5, 3, 2)]
CHANNELS = 5


def random_layer(**settings: object) -> GroupBatchNorm:
    layer = GroupBatchNorm(CHANNELS, **settings)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


def torch_layer(layer: GroupBatchNorm, n_dims: int) -> nn.Module:
    """torch's batch norm with the same parameters and buffers."""
    reference = (nn.BatchNorm1d if n_dims == 2 else nn.BatchNorm2d)(CHANNELS).to(layer.weight.dtype)
    reference.load_state_dict(layer.state_dict())
    return reference


def naive_groups(layer: GroupBatchNorm, images: Tensor, group: int) -> tuple[Tensor, nn.Module, list[nn.Module]]:
    """Output, the layer whose parameters take the gradient, and a copy per group with its buffers."""
    reference = torch_layer(layer, images.dim())
    outputs, copies = [], []
    for start in range(0, len(images), group):
        one = copy.deepcopy(reference)
        one.weight, one.bias = reference.weight, reference.bias
        outputs.append(one(images[start : start + group]))
        copies.append(one)
    return torch.cat(outputs), reference, copies


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group", [2, 3, 4, 6, 12])
@pytest.mark.parametrize("buffers", ["first", "mean"])
def test_groups_are_normalised_one_by_one(shape: tuple[int, ...], group: int, buffers: str) -> None:
    torch.manual_seed(group)
    layer = random_layer(group=group, buffers=buffers).double()
    images = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    same_images = images.detach().clone().requires_grad_()
    upstream = torch.randn(shape, dtype=torch.float64)

    expected, reference, copies = naive_groups(layer, same_images, group)
    actual = layer(images)
    (actual.pow(2) * upstream).sum().backward()
    (expected.pow(2) * upstream).sum().backward()

    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(images.grad, same_images.grad)
    torch.testing.assert_close(layer.weight.grad, reference.weight.grad)
    torch.testing.assert_close(layer.bias.grad, reference.bias.grad)
    kept = copies[:1] if buffers == "first" else copies
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(one, name) for one in kept]).mean(0)
        torch.testing.assert_close(getattr(layer, name), mean, msg=name)
    assert layer.num_batches_tracked == 1


def test_buffer_settings_differ() -> None:
    torch.manual_seed(0)
    images = torch.randn(12, CHANNELS)
    layers = [GroupBatchNorm(CHANNELS, group=4, buffers=buffers) for buffers in ("first", "mean")]
    for layer in layers:
        layer(images)
    assert not torch.allclose(layers[0].running_mean, layers[1].running_mean)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group", [None, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_group_is_torch_bit_for_bit(shape: tuple[int, ...], group: int | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = random_layer(group=group).to(dtype)
    reference = torch_layer(layer, len(shape))
    for _ in range(3):
        images = torch.randn(shape, dtype=dtype)
        assert torch.equal(layer(images), reference(images))
    layer.eval()
    reference.eval()
    assert torch.equal(layer(images), reference(images))
    for name, value in reference.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value), name


@pytest.mark.parametrize("n_images", [1, 7])
def test_evaluation_mode_takes_any_batch_and_moves_nothing(n_images: int) -> None:
    torch.manual_seed(0)
    layer = random_layer(group=4).eval()
    before = copy.deepcopy(layer.state_dict())
    images = torch.randn(n_images, CHANNELS, 2, 2)
    reference = torch_layer(layer, 4).eval()
    assert torch.equal(layer(images), reference(images))
    for name, value in before.items():
        assert torch.equal(layer.state_dict()[name], value), name


@pytest.mark.parametrize("group", [None, 4])
@pytest.mark.parametrize("buffers", ["first", "mean"])
def test_channels_last_is_kept(group: int | None, buffers: str) -> None:
    torch.manual_seed(0)
    layer = GroupBatchNorm(CHANNELS, group=group, buffers=buffers)
    images = torch.randn(8, CHANNELS, 4, 3)
    expected = layer(images)
    actual = layer(images.to(memory_format=torch.channels_last))
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("buffers", ["first", "mean"])
def test_bf16_input_keeps_float32_parameters_and_buffers(buffers: str) -> None:
    torch.manual_seed(0)
    layer = random_layer(group=4, buffers=buffers)
    images = torch.randn(8, CHANNELS, 4, 3)
    expected = copy.deepcopy(layer)(images)
    with torch.autocast("cpu", torch.bfloat16):
        actual = layer(images.bfloat16())
    actual.float().sum().backward()
    assert actual.dtype == torch.bfloat16
    assert layer.running_mean.dtype == layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.05)


def test_no_gradient_mode_gives_the_same() -> None:
    torch.manual_seed(0)
    layer = random_layer(group=4)
    images = torch.randn(8, CHANNELS)
    with torch.no_grad():
        assert torch.equal(layer(images), layer(images))


def test_a_batch_that_groups_do_not_divide_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"bn_group=8 does not divide the batch of 12 images"):
        GroupBatchNorm(CHANNELS, group=8)(torch.randn(12, CHANNELS))


def test_prepare_sets_the_group_and_checks_it_before_training() -> None:
    model = nn.Sequential(GroupBatchNorm(CHANNELS), nn.ReLU(), GroupBatchNorm(CHANNELS))
    prepare_bn_groups(model, 4, local_batch=12)
    assert [model[0].group, model[2].group] == [4, 4]
    with pytest.raises(ConfigError, match=r"bn_group=5 .* global batch of 12"):
        prepare_bn_groups(model, 5, local_batch=12)
    with pytest.raises(ConfigError, match=r"bn_group=24"):
        prepare_bn_groups(model, 24, local_batch=12)


def test_synchronising_in_one_process_changes_nothing() -> None:
    layer = random_layer(group=4)
    before = layer.running_mean.clone()
    synchronise_buffers(layer)
    assert torch.equal(layer.running_mean, before)
