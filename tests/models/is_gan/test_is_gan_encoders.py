"""IS-GAN's encoders: sizes of the sheet on `meta`, parts by hand, and which weights start equal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reid_ray.config import ModelConfig
from reid_ray.errors import ConfigError
from reid_ray.inference.folding import for_extraction
from reid_ray.models import GroupBatchNorm, build_embedder
from reid_ray.models.is_gan import IsGanEncoders, IsGanRetriever, PartBranch, build_is_gan_encoders

SMALL = ModelConfig(backbone="resnet18", weights=None, bn_group=None)


def small(**settings) -> IsGanEncoders:
    torch.manual_seed(0)
    return build_is_gan_encoders(SMALL, 5, **{"identity_dim": 6, "unrelated_dim": 4, **settings})


def n_parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.fixture(scope="module")
def full() -> IsGanEncoders:
    with torch.device("meta"):
        return build_is_gan_encoders(ModelConfig(weights=None, bn_group=None), 751)


def test_parameters_of_the_paper(full: IsGanEncoders) -> None:
    assert n_parameters(full.backbone) == 2_957_376
    assert n_parameters(full.identity_encoder, full.classifiers) == 67_394_424
    assert n_parameters(full.unrelated_encoder) == 63_750_144
    assert n_parameters(*full) == 134_101_944
    assert {n_parameters(branch) for branch in full.identity_encoder.parts.branches} == {20_550_656}
    assert {n_parameters(reduction) for reduction in full.identity_encoder.reductions} == {524_800}
    assert {n_parameters(classifier) for classifier in full.classifiers.classifiers} == {193_007}


def test_shapes_of_the_paper(full: IsGanEncoders) -> None:
    shared = full.backbone(torch.empty(2, 3, 384, 128, device="meta"))
    assert shared.shape == (2, 1024, 24, 8)
    for encoder in (full.identity_encoder, full.unrelated_encoder):
        maps = [branch.backbone(shared).shape[1:] for branch in encoder.parts.branches]
        assert maps == [(2048, 12, 4), (2048, 24, 8), (2048, 24, 8)]
    parts = full.identity_encoder(shared)
    assert parts.shape == (2, 8, 256)
    assert full.identity_encoder.dim == 2048
    assert full.classifiers(parts).shape == (8, 2, 751)
    code = full.unrelated_encoder(shared)
    assert code.mean.shape == code.log_variance.shape == (2, 8, 64)
    assert full.unrelated_encoder.dim == 512
    assert IsGanRetriever(full.backbone, full.identity_encoder).dim == 2048


@pytest.mark.parametrize(("stripes", "n_parts"), [((2,), 3), ((3,), 4), ((1, 2), 4), ((1, 3), 5)])
def test_table_3_takes_fewer_branches(stripes: tuple[int, ...], n_parts: int) -> None:
    with torch.device("meta"):
        encoders = build_is_gan_encoders(SMALL, 5, stripes=stripes)
    assert encoders.identity_encoder.dim == 256 * n_parts
    assert encoders.unrelated_encoder.dim == 64 * n_parts
    assert len(encoders.classifiers.classifiers) == n_parts


@pytest.mark.parametrize("stripes", [(), (0,), (2, -1)])
def test_no_branches(stripes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="are invalid"):
        small(stripes=stripes)


def pool_by_loop(feature_map: torch.Tensor, top: int, bottom: int, pooling: str) -> torch.Tensor:
    """Maximum or mean over rows top … bottom−1, image by image and channel by channel."""
    pooled = torch.empty(feature_map.shape[:2], dtype=feature_map.dtype)
    for i, channels in enumerate(feature_map):
        for c, rows in enumerate(channels):
            values = [float(value) for row in rows[top:bottom] for value in row]
            pooled[i, c] = max(values) if pooling == "max" else sum(values) / len(values)
    return pooled


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("n_stripes", [1, 2, 3])
def test_parts_by_hand(n_stripes: int, pooling: str) -> None:
    class Poolings:
        avg = staticmethod(lambda x: x.mean(dim=(2, 3)))
        max = staticmethod(lambda x: x.amax(dim=(2, 3)))

    branch = PartBranch(nn.Identity(), n_stripes, getattr(Poolings, pooling))
    feature_map = torch.randn(2, 3, 6, 2, dtype=torch.float64)
    height = 6 // n_stripes
    spans = [(0, 6)] + [(height * i, height * (i + 1)) for i in range(n_stripes)] * (n_stripes > 1)
    expected = torch.stack([pool_by_loop(feature_map, *span, pooling) for span in spans], dim=1)
    assert branch.n_parts == len(spans)
    torch.testing.assert_close(branch(feature_map), expected)


def test_more_stripes_than_rows() -> None:
    branch = PartBranch(nn.Identity(), 3, nn.Flatten())
    with pytest.raises(ConfigError, match="part-3 has 3 stripes, but its feature map has 2 rows"):
        branch(torch.randn(1, 3, 2, 2))


def test_heads_by_hand() -> None:
    encoders = small()
    shared = encoders.backbone(torch.randn(4, 3, 64, 32))
    identity, unrelated = encoders.identity_encoder.eval(), encoders.unrelated_encoder.eval()
    vectors = identity.parts(shared)
    parts = identity(shared)
    code = unrelated(shared)
    logits = encoders.classifiers(parts)
    for k in range(8):
        linear, norm = identity.reductions[k]
        torch.testing.assert_close(parts[:, k], norm(F.linear(vectors[:, k], linear.weight)))
        of_unrelated = unrelated.parts(shared)[:, k]
        torch.testing.assert_close(code.mean[:, k], unrelated.means[k](of_unrelated))
        torch.testing.assert_close(code.log_variance[:, k], unrelated.log_variances[k](of_unrelated))
        torch.testing.assert_close(logits[k], encoders.classifiers.classifiers[k](parts[:, k]))


def test_pooling_of_both_encoders() -> None:
    """E_R by maximum; E_U by mean as in the released code, or by maximum as in the paper. All branches start equal."""
    encoders, as_printed = small(stripes=(2,)), small(stripes=(2,), unrelated_pooling="max")
    shared = encoders.backbone(torch.randn(2, 3, 64, 32)).detach()
    identity = encoders.identity_encoder.parts(shared)
    average = encoders.unrelated_encoder.parts(shared)
    assert (identity >= average).all()
    assert not torch.allclose(identity, average)
    assert torch.equal(as_printed.unrelated_encoder.parts(shared), as_printed.identity_encoder.parts(shared))


def test_branches_start_from_the_backbones_weights_and_share_the_trunk_alone() -> None:
    encoders = small()
    torch.manual_seed(0)
    whole = build_embedder(SMALL).backbone
    reference = whole.state_dict()
    for encoder in (encoders.identity_encoder, encoders.unrelated_encoder):
        for branch in encoder.parts.branches:
            for name, value in branch.backbone.state_dict().items():
                assert torch.equal(value, reference[name])
    parameters = [id(parameter) for module in encoders for parameter in module.parameters()]
    assert len(parameters) == len(set(parameters))


def test_initial_heads() -> None:
    encoders = small(identity_dim=200)
    for linear, norm in encoders.identity_encoder.reductions:
        assert linear.bias is None
        assert linear.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
        assert norm.weight.std().item() == pytest.approx(0.02, rel=0.25)
        assert norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    for classifier in encoders.classifiers.classifiers:
        assert classifier.weight.std().item() == pytest.approx((2 / 5) ** 0.5, rel=0.1)
        assert not classifier.bias.any()


def test_all_batch_norms_are_of_groups() -> None:
    for module in small():
        norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        assert all(isinstance(layer, GroupBatchNorm) for layer in norms)
        assert not any(isinstance(layer, nn.Dropout) for layer in module.modules())


@pytest.mark.parametrize("flip_test", [True, False])
def test_the_retrieval_feature(flip_test: bool) -> None:
    encoders = small(stripes=(1, 2))
    retriever = IsGanRetriever(encoders.backbone, encoders.identity_encoder, flip_test=flip_test).eval()
    images = torch.randn(3, 3, 64, 32)
    feature = encoders.identity_encoder(encoders.backbone(images)).flatten(1)
    mirrored = encoders.identity_encoder(encoders.backbone(torch.from_numpy(images.numpy()[..., ::-1].copy())))
    expected = feature + mirrored.flatten(1) if flip_test else feature
    embedded = retriever.embed(images)
    torch.testing.assert_close(embedded, expected / expected.norm(dim=1, keepdim=True))
    if flip_test:
        torch.testing.assert_close(retriever.embed(images.flip(3)), embedded)
    with torch.no_grad():
        torch.testing.assert_close(for_extraction(retriever).embed(images), embedded, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("bf16_on_this_cpu")
def test_bfloat16_is_the_residual_stages_only() -> None:
    encoders = small(stripes=(1,), bf16=True)
    shared = encoders.backbone(torch.randn(2, 3, 64, 32))
    assert shared.dtype == torch.bfloat16
    assert encoders.identity_encoder(shared).dtype == torch.float32
    assert encoders.unrelated_encoder(shared).mean.dtype == torch.float32
