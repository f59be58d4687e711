"""GCL's networks: the sizes and counts of the released code, and what depends on what."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from reid_ray.config import ModelConfig
from reid_ray.errors import ConfigError
from reid_ray.models import Backbone, GroupBatchNorm, build_backbone, build_embedder
from reid_ray.models.gcl import (
    CodeToNorms,
    Decoder,
    IdentityEncoder,
    MultiScaleDiscriminator,
    PatchDiscriminator,
    StructureEncoder,
    ViewGenerator,
    code_parts,
    identity_code,
)
from reid_ray.models.gcl.layers import init_kaiming


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def resnet(name: str = "resnet18", last_stride: int = 1) -> Backbone:
    return build_backbone(name, stride_in="conv2", last_stride=last_stride, norm=GroupBatchNorm)


def images(n: int, channels: int = 3, seed: int = 0, size: tuple[int, int] = (64, 32)) -> Tensor:
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(seed))


# Full size, without memory


def test_parameter_counts() -> None:
    with torch.device("meta"):
        assert n_parameters(IdentityEncoder.with_embedding(resnet("resnet50"))) == 24_558_144
        assert n_parameters(StructureEncoder()) == 380_544
        assert n_parameters(Decoder()) == 1_455_555
        assert n_parameters(CodeToNorms(8192, 128)) == 11_544_576
        assert n_parameters(CodeToNorms(8192, 128).weights[0]) == 1_443_072
        assert n_parameters(ViewGenerator()) == 13_380_675
        assert n_parameters(PatchDiscriminator()) == 341_857
        assert n_parameters(MultiScaleDiscriminator()) == 1_025_571


def test_shapes() -> None:
    with torch.device("meta"):
        encoder = IdentityEncoder.with_embedding(resnet("resnet50")).eval()
        generator, discriminator = ViewGenerator(encoder.code_dim), MultiScaleDiscriminator()
        photos, projections = torch.empty(2, 3, 256, 128), torch.empty(2, 1, 256, 128)
        feature_map = encoder.backbone(photos)
        assert feature_map.shape == (2, 2048, 16, 8)
        code = identity_code(feature_map, encoder.n_stripes)
        assert code.shape == (2, 8192)
        assert encoder.neck(encoder.embedding(encoder.pooling(feature_map))).shape == (2, 512)
        assert generator.structure(projections).shape == (2, 128, 64, 32)
        generated = generator(projections, code)
        assert generated.shape == photos.shape
        scores = discriminator(generated)
        assert [tuple(score.shape) for score in scores] == [(2, 1, 64, 32), (2, 1, 32, 16), (2, 1, 16, 8)]


def test_small_networks_fit_together() -> None:
    encoder = IdentityEncoder.with_embedding(resnet(), dim=24)
    generator = ViewGenerator(encoder.code_dim, width=2, dilations=(1, 2), hidden=8)
    discriminator = MultiScaleDiscriminator(width=4, n_scales=2, n_blocks=1)
    identity = encoder(images(3))
    generated = generator(images(3, 1), identity.code)
    assert (identity.feature.shape, generated.shape) == ((3, 24), (3, 3, 64, 32))
    (sum(score.mean() for score in discriminator(generated)) + encoder(generated).feature.sum()).backward()
    for network in (encoder, generator, discriminator):
        trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        without = [name for name, parameter in trained.items() if parameter.grad is None]
        assert not without


# E_id


def test_code_is_channel_major() -> None:
    feature_map = torch.arange(8.0).reshape(1, 2, 4, 1)
    assert identity_code(feature_map, 4).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_code_is_the_means_of_stripes() -> None:
    feature_map = torch.randn(2, 5, 16, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = identity_code(feature_map, 4)
    for channel in range(5):
        for stripe in range(4):
            expected = feature_map[:, channel, 4 * stripe : 4 * stripe + 4].mean(dim=(1, 2))
            torch.testing.assert_close(found[:, 4 * channel + stripe], expected)


def test_parts_of_the_code() -> None:
    """Entries named channel·10 + stripe; eight channels, four stripes, four parts."""
    names = torch.tensor([[10 * channel + stripe for channel in range(8) for stripe in range(4)]])
    by_channels = [part.flatten().tolist() for part in code_parts(names, 4, "channels")]
    by_stripes = [part.flatten().tolist() for part in code_parts(names, 4, "stripes")]
    for p in range(4):
        assert by_channels[p] == [10 * channel + stripe for channel in (2 * p, 2 * p + 1) for stripe in range(4)]
        assert by_stripes[p] == [10 * channel + p for channel in range(8)]


def test_feature_and_code_come_from_one_map() -> None:
    encoder = IdentityEncoder.with_embedding(resnet(), dim=24).eval()
    photos = images(3)
    feature_map = encoder.backbone(photos)
    expected = encoder.neck(feature_map.mean(dim=(2, 3)) @ encoder.embedding.weight.T + encoder.embedding.bias)
    found = encoder(photos)
    torch.testing.assert_close(found.feature, expected)
    torch.testing.assert_close(found.code, identity_code(feature_map, 4))
    torch.testing.assert_close(encoder.embed(photos), expected / expected.norm(dim=1, keepdim=True))
    assert encoder.neck.bias.requires_grad
    assert (encoder.dim, encoder.code_dim) == (24, 2048)


@pytest.mark.parametrize("pooling", ["avg", "gem"])
def test_around_the_network_of_an_earlier_run(pooling: str) -> None:
    config = ModelConfig(backbone="resnet18", weights=None, pooling=pooling)
    embedder = build_embedder(config).eval()
    encoder = IdentityEncoder.around(embedder).eval()
    assert list(encoder.state_dict()) == list(embedder.state_dict())
    torch.testing.assert_close(encoder.embed(images(2)), embedder.embed(images(2)))
    assert encoder.dim == embedder.dim
    assert not encoder.neck.bias.requires_grad

    other = IdentityEncoder.around(build_embedder(config)).eval()
    other.load_state_dict(embedder.state_dict())
    torch.testing.assert_close(other.embed(images(2)), embedder.embed(images(2)))


def test_a_new_embedding_takes_the_rest_of_an_earlier_run() -> None:
    embedder = build_embedder(ModelConfig(backbone="resnet18", weights=None, bn_group=4))
    norm = partial(GroupBatchNorm, group=4, buffers="mean")
    encoder = IdentityEncoder.with_embedding(embedder.backbone, norm, dim=24, bf16=True)
    assert encoder.backbone is embedder.backbone
    assert encoder.neck.group == 4
    assert encoder(images(4)).feature.dtype == torch.float32
    assert encoder(images(4)).code.dtype == torch.float32


def test_frozen_in_evaluation_mode_nothing_changes() -> None:
    encoder = IdentityEncoder.with_embedding(resnet(), dim=24).eval().requires_grad_(False)
    generator = ViewGenerator(encoder.code_dim, width=2, dilations=(1, 2), hidden=8)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.Adam(generator.parameters())
    for seed in range(2):
        code = encoder(images(2, seed=seed)).code
        generated = generator(images(2, 1, seed=seed), code)
        (encoder(generated).code - code).abs().mean().backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


# G


@pytest.fixture(scope="module")
def generator() -> ViewGenerator:
    torch.manual_seed(0)
    return ViewGenerator(64, width=2, dilations=(1, 2), hidden=8).double()


def test_an_image_does_not_depend_on_its_batch(generator: ViewGenerator) -> None:
    projections, codes = images(5, 1).double(), torch.randn(5, 64, dtype=torch.float64)
    together = generator(projections, codes)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(generator(projections[order], codes[order]), together[order])
    for i in range(5):
        torch.testing.assert_close(generator(projections[i : i + 1], codes[i : i + 1])[0], together[i])


def test_structure_and_identity_both_show(generator: ViewGenerator) -> None:
    projections, codes = images(2, 1).double(), torch.randn(2, 64, dtype=torch.float64)
    image = generator(projections[:1], codes[:1])
    assert not torch.allclose(generator(projections[1:], codes[:1]), image, atol=1e-3)
    assert not torch.allclose(generator(projections[:1], codes[1:]), image, atol=1e-3)
    structure = generator.structure(projections[:1])
    torch.testing.assert_close(generator.decode(structure, codes[:1]), image)


@pytest.mark.parametrize("split", ["channels", "stripes"])
def test_each_part_of_the_code_feeds_its_residual_block(split: str) -> None:
    norms = CodeToNorms(64, 6, hidden=8, split=split)
    code = torch.randn(1, 64)
    before = norms(code)
    for p in range(4):
        changed = code.clone()
        rows = range(16 * p, 16 * p + 16) if split == "channels" else range(p, 64, 4)
        changed[0, list(rows)] += 1.0
        for block, (old, new) in enumerate(zip(before, norms(changed), strict=True)):
            assert (block != p) == torch.equal(old[0], new[0])
            assert (block != p) == torch.equal(old[1], new[1])


def test_norms_are_three_linear_layers() -> None:
    norms = CodeToNorms(16, 6, hidden=8)
    first, second, third = (layer for layer in norms.weights[1] if isinstance(layer, nn.Linear))
    code = torch.randn(3, 16)
    expected = third(_leaky(second(_leaky(first(code[:, 4:8])))))
    torch.testing.assert_close(norms(code)[1][0], expected)


def _leaky(values: Tensor) -> Tensor:
    return torch.where(values < 0, 0.2 * values, values)


def test_images_that_are_too_small_for_the_dilations() -> None:
    with pytest.raises(
        ConfigError, match=r"Images of 64×32 are too small .* dilation 9; make both sides larger than 36"
    ):
        StructureEncoder(2)(images(1, 1))
    assert StructureEncoder(2, dilations=(7,))(images(1, 1)).shape == (1, 16, 16, 8)
    with pytest.raises(ConfigError, match="dilation 8"):
        StructureEncoder(2, dilations=(8,))(images(1, 1))


# D


def test_discriminator_sees_three_sizes() -> None:
    discriminator = MultiScaleDiscriminator(width=4, n_blocks=1).apply(init_kaiming)  # its own weights are too small
    photos = images(2)
    half = naive_half(photos)
    expected = [scale(view) for scale, view in zip(discriminator.scales, (photos, half, naive_half(half)), strict=True)]
    for found, wanted in zip(discriminator(photos), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(discriminator.downsample(photos), half)
    first, second = (next(scale.parameters()) for scale in discriminator.scales[:2])
    assert not torch.equal(first, second)


def naive_half(pixels: Tensor) -> Tensor:
    """Mean over a 3×3 window around every other pixel, of what is inside the image."""
    n, channels, height, width = pixels.shape
    output = torch.empty(n, channels, height // 2, width // 2)
    for row in range(height // 2):
        for column in range(width // 2):
            window = pixels[:, :, max(2 * row - 1, 0) : 2 * row + 2, max(2 * column - 1, 0) : 2 * column + 2]
            output[:, :, row, column] = window.mean(dim=(2, 3))
    return output


def test_no_network_draws_anything_or_has_a_plain_batch_norm() -> None:
    networks = [
        IdentityEncoder.with_embedding(resnet(), dim=24),
        ViewGenerator(64, width=2, dilations=(1, 2), hidden=8),
        MultiScaleDiscriminator(width=4),
    ]
    for network in networks:
        for module in network.modules():
            assert not isinstance(module, nn.Dropout | nn.BatchNorm1d | nn.BatchNorm2d)
    state = torch.get_rng_state()
    networks[2](networks[1](images(2, 1), torch.zeros(2, 64)))
    networks[0](images(2))
    assert torch.equal(torch.get_rng_state(), state)
