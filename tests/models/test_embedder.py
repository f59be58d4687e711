"""The whole network: shapes, types, the BN neck, and building from a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reid_ray.config import ModelConfig
from reid_ray.models import Embedder, GroupBatchNorm, build_embedder


def small(*, bf16: bool = False, **settings: object) -> Embedder:
    torch.manual_seed(0)
    return build_embedder(ModelConfig(backbone="resnet18", weights=None, **settings), bf16=bf16)


@pytest.mark.parametrize("pooling", ["avg", "max", "gem"])
def test_feature_is_the_batch_norm_of_the_pooled_map(pooling: str) -> None:
    model = small(pooling=pooling, bn_group=4)
    images = torch.randn(8, 3, 64, 32)
    pooled, feature = model(images)
    assert pooled.shape == feature.shape == (8, model.dim) == (8, 512)
    for group in (slice(0, 4), slice(4, 8)):
        values = pooled[group]
        expected = (values - values.mean(0)) / (values.var(0, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(feature[group], expected, rtol=1e-3, atol=1e-4)


def test_embed_is_the_unit_feature() -> None:
    model = small().eval()
    images = torch.randn(3, 3, 64, 32)
    with torch.no_grad():
        embedded, feature = model.embed(images), model(images).feature
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(embedded * feature.norm(dim=1, keepdim=True), feature)


def test_neck_starts_as_identity_and_its_bias_is_frozen() -> None:
    neck = small().neck
    assert not neck.bias.requires_grad
    assert not neck.bias.any()
    assert neck.weight.requires_grad
    assert torch.equal(neck.weight, torch.ones(512))


def test_settings_reach_every_norm_layer() -> None:
    model = small(bn_group=16, bn_buffers="mean")
    layers = [module for module in model.modules() if isinstance(module, GroupBatchNorm)]
    assert len(layers) == 21
    assert all(layer.group == 16 and layer.running_from == "mean" for layer in layers)
    assert all(layer.group is None for layer in small(bn_group=None).modules() if isinstance(layer, GroupBatchNorm))


@pytest.mark.usefixtures("bf16_on_this_cpu")
@pytest.mark.parametrize("training", [True, False])
def test_bf16_is_the_backbones_only(training: bool) -> None:
    model = small(bf16=True, bn_group=4).train(training)
    maps: list[torch.Tensor] = []
    model.backbone.register_forward_hook(lambda module, inputs, output: maps.append(output))
    pooled, feature = model(torch.randn(8, 3, 64, 32))
    assert maps[0].dtype == torch.bfloat16
    assert pooled.dtype == feature.dtype == torch.float32
    assert (pooled != pooled.bfloat16()).any(), "pooling itself should not be rounded to bf16"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_float64_stays() -> None:
    pooled, feature = small(bn_group=4).double()(torch.randn(4, 3, 64, 32, dtype=torch.float64))
    assert pooled.dtype == feature.dtype == torch.float64


def test_random_weights_follow_the_seed() -> None:
    first, second = small().state_dict(), small().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    source = small()
    torch.save(source.backbone.state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(1)
    loaded = build_embedder(ModelConfig(backbone="resnet18", weights=str(tmp_path / "weights.pth")))
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(loaded.backbone.state_dict()[key], value)
