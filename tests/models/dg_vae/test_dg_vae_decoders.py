"""DG-VAE's decoders and discriminators: sizes on `meta`, and what reaches the output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reid_ray.models import GroupBatchNorm
from reid_ray.models.dg_vae import ImageDiscriminator, MapDiscriminator, build_image_decoder, build_map_decoder


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("build", "n", "shape", "n_masks"),
    [
        (build_map_decoder, 17_042_944, (1024, 24, 8), 3),
        (build_image_decoder, 28_062_976, (3, 384, 128), 6),
    ],
)
def test_decoders(build, n: int, shape: tuple[int, ...], n_masks: int) -> None:
    with torch.device("meta"):
        decoder = build(GroupBatchNorm)
        masks = [torch.empty(size) for size in decoder.mask_shapes(2)]
        decoded = decoder(torch.empty(2, 2048), torch.empty(2, 512), masks)
    assert decoded.shape == (2, *shape)
    assert n_parameters(decoder) == n
    assert len(masks) == n_masks


def test_the_four_layers_up_to_images_cost_what_table_3_says() -> None:
    """Multiplications of a transposed convolution: weights times positions of its input. 6.03 − 1.23 GFLOP = 4.8."""
    with torch.device("meta"):
        convolutions = build_image_decoder(GroupBatchNorm).decoder.convolutions[3:]
    positions = [24 * 8 * 4**i for i in range(4)]
    cost = sum(conv.weight.numel() * n for conv, n in zip(convolutions, positions, strict=True))
    assert cost / 1e9 == pytest.approx(4.8, rel=0.03)


def test_both_codes_reach_the_map() -> None:
    torch.manual_seed(0)
    decoder = build_map_decoder(GroupBatchNorm, in_dim=5, channels=(8, 8, 6), start=(3, 1)).eval()
    identity, ambiguity = torch.randn(2, 3), torch.randn(2, 2)
    feature_map = decoder(identity, ambiguity, None)
    assert feature_map.shape == (2, 6, 6, 2)
    assert decoder(20 * identity, ambiguity, None).abs().max() > 1  # linear
    assert not torch.allclose(decoder(identity + 1, ambiguity, None), feature_map)
    assert not torch.allclose(decoder(identity, ambiguity + 1, None), feature_map)
    images = build_image_decoder(GroupBatchNorm, in_dim=5, channels=(8, 8, 3), start=(3, 1)).eval()
    assert images(20 * identity, ambiguity, None).abs().max() <= 1


def test_discriminators() -> None:
    with torch.device("meta"):
        of_maps, of_images = MapDiscriminator(), ImageDiscriminator()
        assert of_maps(torch.empty(2, 1024, 24, 8)).shape == (2, 1, 12, 4)
        assert of_images(torch.empty(2, 3, 384, 128)).shape == (2, 1, 12, 4)
    assert n_parameters(of_maps) == 2_261_729  # table 3: 18.52 − 16.26 million
    assert n_parameters(of_images) == 2_921_441
    for module in (of_maps, of_images):
        assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


def test_a_map_is_judged_alone() -> None:
    torch.manual_seed(0)
    discriminator = MapDiscriminator(6, (4, 4, 3))
    maps = torch.randn(3, 6, 8, 4)
    assert discriminator(maps).shape == (3, 1, 4, 2)
    torch.testing.assert_close(discriminator(maps[1:2]), discriminator(maps)[1:2])
