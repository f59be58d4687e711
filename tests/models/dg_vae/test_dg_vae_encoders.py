"""DG-VAE's encoders: sizes on `meta`, heads by hand, trunks by modality, what retrieves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reid_ray.config import ModelConfig
from reid_ray.inference.folding import for_extraction
from reid_ray.models import GroupBatchNorm, MaxPooling
from reid_ray.models.dg_vae import DgVaeEncoders, DgVaeRetriever, GaussianEncoder, build_dg_vae_encoders

SMALL = ModelConfig(backbone="resnet18", weights=None, bn_group=None)


def small(**settings) -> DgVaeEncoders:
    torch.manual_seed(0)
    return build_dg_vae_encoders(SMALL, 5, **{"identity_dim": 6, "ambiguity_dim": 4, **settings})


def n_parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.fixture(scope="module")
def full() -> DgVaeEncoders:
    with torch.device("meta"):
        return build_dg_vae_encoders(ModelConfig(weights=None, bn_group=None), 395)


def test_parameters(full: DgVaeEncoders) -> None:
    assert n_parameters(full.trunks.visible) == n_parameters(full.trunks.infrared) == 2_957_376
    assert n_parameters(full.identity_encoder) == 28_943_360
    assert n_parameters(full.ambiguity_encoder) == 22_648_832
    assert n_parameters(full.classifier) == 2049 * 395


@pytest.mark.parametrize("split", ["conv4_1", "conv4_end"])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_shapes(split: str, last_stride: int) -> None:
    with torch.device("meta"):
        encoders = build_dg_vae_encoders(
            ModelConfig(weights=None, bn_group=None), 395, split=split, last_stride=last_stride
        )
        feature_map = encoders.trunks.visible(torch.empty(2, 3, 384, 128))
    assert feature_map.shape == (2, 1024, 24, 8)
    size = (24, 8) if last_stride == 1 else (12, 4)
    assert encoders.identity_encoder.backbone(feature_map).shape == (2, 2048, *size)
    assert [tensor.shape for tensor in encoders.identity_encoder(feature_map)] == [(2, 2048)] * 2
    assert [tensor.shape for tensor in encoders.ambiguity_encoder(feature_map)] == [(2, 512)] * 2


def test_heads_by_hand() -> None:
    encoders = small()
    feature_map = torch.randn(3, 256, 4, 2)
    for encoder, pool in ((encoders.identity_encoder, "amax"), (encoders.ambiguity_encoder, "mean")):
        encoder.eval()
        nn.init.normal_(encoder.log_variance.weight)
        encoded = encoder.backbone(feature_map)
        for head, found in zip((encoder.mean, encoder.log_variance), encoder(feature_map), strict=True):
            mapped = torch.einsum("nchw,dc->ndhw", encoded, head.weight[:, :, 0, 0]) + head.bias[:, None, None]
            torch.testing.assert_close(found, getattr(mapped, pool)(dim=(2, 3)).clamp(-10, 10), rtol=1e-4, atol=1e-4)


def test_initial_and_extreme_variances() -> None:
    encoders = small()
    feature_map = torch.randn(3, 256, 4, 2)
    for encoder in (encoders.identity_encoder, encoders.ambiguity_encoder):
        assert (encoder(feature_map).log_variance == -2).all()
        nn.init.constant_(encoder.log_variance.bias, 90)
        assert (encoder(feature_map).log_variance == 10).all()
        nn.init.constant_(encoder.log_variance.bias, -90)
        assert encoder(feature_map).std.min().item() == pytest.approx(torch.tensor(-5.0).exp().item())


def test_the_decoders_maps_go_the_same_way() -> None:
    """E^D(f̂): a map with a gradient gets one back."""
    feature_map = torch.randn(3, 256, 4, 2, requires_grad=True)
    small().identity_encoder(feature_map).mean.sum().backward()
    assert feature_map.grad is not None
    assert feature_map.grad.any()


def test_trunks_by_modality() -> None:
    trunks = small().trunks.eval()
    for parameter in trunks.infrared.parameters():
        nn.init.uniform_(parameter, -0.1, 0.1)
    images = torch.randn(5, 3, 64, 32)
    modality = torch.tensor([1, 0, 0, 1, 1])
    together = trunks(images, modality)
    for i, code in enumerate(modality.tolist()):
        own = (trunks.visible, trunks.infrared)[code](images[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trunks(images, torch.zeros(5, dtype=torch.int64)), trunks.visible(images))
    with pytest.raises(ValueError, match="needs the modality"):
        trunks(images, torch.tensor([1, 0, -1, 1, 1]))
    with pytest.raises(ValueError, match="needs the modality"):
        trunks(images, torch.full((5,), -1))


def test_trunks_start_equal_and_nothing_is_shared() -> None:
    encoders = small()
    visible, infrared = (trunk.state_dict() for trunk in (encoders.trunks.visible, encoders.trunks.infrared))
    assert all(torch.equal(value, infrared[name]) for name, value in visible.items())
    parameters = [id(parameter) for module in encoders for parameter in module.parameters()]
    assert len(parameters) == len(set(parameters))


def test_the_retrieval_feature_is_the_normalised_mean() -> None:
    encoders = small()
    retriever = DgVaeRetriever(encoders.trunks, encoders.identity_encoder).eval()
    assert retriever.dim == 6
    images, modality = torch.randn(4, 3, 64, 32), torch.tensor([0, 1, 1, 0])
    mean = encoders.identity_encoder(encoders.trunks(images, modality)).mean
    embedded = retriever.embed(images, modality)
    torch.testing.assert_close(embedded, mean / mean.norm(dim=1, keepdim=True))
    with torch.no_grad():
        torch.testing.assert_close(for_extraction(retriever).embed(images, modality), embedded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("neck", ["none", "bn"])
def test_classifier(neck: str) -> None:
    classifier = small(idi_neck=neck).classifier
    codes = torch.randn(8, 6)
    layer = classifier.classifier
    normalised = F.batch_norm(codes, None, None, training=True) if neck == "bn" else codes
    torch.testing.assert_close(classifier(codes), F.linear(normalised, layer.weight, layer.bias))
    assert n_parameters(classifier) == 35 + (12 if neck == "bn" else 0)


def test_all_batch_norms_are_of_groups() -> None:
    for module in small(idi_neck="bn"):
        norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        assert all(isinstance(layer, GroupBatchNorm) for layer in norms)
        assert not any(isinstance(layer, nn.Dropout) for layer in module.modules())


@pytest.mark.usefixtures("bf16_on_this_cpu")
def test_bfloat16_is_the_residual_stages_only() -> None:
    encoders = small(bf16=True)
    feature_map = encoders.trunks.visible(torch.randn(2, 3, 64, 32))
    assert feature_map.dtype == torch.bfloat16
    assert encoders.identity_encoder(feature_map).mean.dtype == torch.float32
    assert isinstance(encoders.identity_encoder, GaussianEncoder)
    assert isinstance(encoders.identity_encoder.pooling, MaxPooling)
