"""Features of the folded network against those of the original network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reid_ray.config import ModelConfig
from reid_ray.devices import cpu_supports_bf16
from reid_ray.inference.folding import OneDNNBackbone, for_extraction
from reid_ray.models import Embedder, build_embedder
from reid_ray.models.batchnorm import GroupBatchNorm


def trained(backbone: str, *, bf16: bool = False) -> Embedder:
    """A network whose batch norms are not the identity."""
    torch.manual_seed(0)
    model = build_embedder(ModelConfig(backbone=backbone, weights=None), bf16=bf16)
    for module in model.modules():
        if isinstance(module, GroupBatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module is not model.neck:
                nn.init.normal_(module.bias, std=0.2)
    return model


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "ibn_resnet50"])
def test_folding_preserves_features(backbone):
    model = trained(backbone).double()
    images = torch.randn(3, 3, 64, 32, dtype=torch.float64)
    fast = for_extraction(model)
    torch.testing.assert_close(fast.embed(images), model.eval().embed(images), rtol=1e-9, atol=1e-11)
    left = [m for m in fast.backbone.modules() if isinstance(m, GroupBatchNorm)]
    assert len(left) == (13 if backbone == "ibn_resnet50" else 0)  # inside the instance-batch norms


@pytest.mark.usefixtures("bf16_on_this_cpu")
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "ibn_resnet50"])
def test_bfloat16_features_stay_within_its_rounding(backbone):
    model = trained(backbone, bf16=True)
    images = torch.randn(5, 3, 64, 32).to(memory_format=torch.channels_last)
    fast = for_extraction(model)
    assert isinstance(fast.backbone, OneDNNBackbone) == (cpu_supports_bf16() and backbone != "ibn_resnet50")
    with torch.inference_mode():
        found, expected = fast.embed(images), model.eval().embed(images)
        again = fast.embed(images)
    assert found.dtype == torch.float32
    assert (found * expected).sum(1).min() > 0.999
    assert torch.equal(found, again)


@pytest.mark.usefixtures("bf16_on_this_cpu")
@pytest.mark.parametrize("width", [8, 16, 32, 33])
def test_bfloat16_features_of_narrow_images(width):
    model = trained("resnet18", bf16=True)
    images = torch.randn(4, 3, 128, width)
    with torch.inference_mode():
        found = for_extraction(model).embed(images)
        model.bf16 = False
        expected = model.eval().embed(images)
    assert (found * expected).sum(1).min() > 0.999


def test_a_cpu_without_bfloat16_extracts_in_float32(monkeypatch):
    for module in ("inference.folding", "models.precision"):
        monkeypatch.setattr(f"reid_ray.{module}.cpu_supports_bf16", lambda: False)
    model = trained("resnet18", bf16=True)
    images = torch.randn(2, 3, 64, 32)
    fast = for_extraction(model)
    assert not isinstance(fast.backbone, OneDNNBackbone)
    expected = trained("resnet18").eval().embed(images)
    assert torch.equal(model.eval().embed(images), expected)
    torch.testing.assert_close(fast.embed(images), expected, rtol=1e-4, atol=1e-5)


def test_original_model_is_not_modified():
    model = trained("resnet18").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for_extraction(model).embed(torch.randn(2, 3, 64, 32))
    assert model.training
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
