"""IS-GAN's generator: sizes of the sheet, what goes into it, and the range of what comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reid_ray.models import GroupBatchNorm
from reid_ray.models.is_gan import IsGanGenerator, squash, unsquash

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def small() -> IsGanGenerator:
    torch.manual_seed(0)
    return IsGanGenerator(
        3, GroupBatchNorm, identity_dim=6, unrelated_dim=4, noise_dim=2, channels=(8, 8, 8, 6, 3), start=(4, 2)
    )


def inputs(n: int = 4) -> tuple[torch.Tensor, ...]:
    return torch.randn(n, 2, 3), torch.randn(n, 2, 2), torch.randn(n, 2), torch.eye(3)[torch.arange(n) % 3]


@pytest.mark.parametrize(("n_identities", "in_dim"), [(751, 3_439), (702, 3_390)])
def test_sizes_of_the_paper(n_identities: int, in_dim: int) -> None:
    with torch.device("meta"):
        generator = IsGanGenerator(n_identities, GroupBatchNorm)
        codes = torch.empty(2, 8, 256), torch.empty(2, 8, 64), torch.empty(2, 128), torch.empty(2, n_identities)
        masks = [torch.empty(shape) for shape in generator.mask_shapes(2)]
        assert generator(*codes, masks).shape == (2, 3, 384, 128)
    assert generator.decoder.fc.in_features == in_dim
    if n_identities == 751:
        assert sum(parameter.numel() for parameter in generator.parameters()) == 16_056_192
    maps = [(512,), (512, 6, 2), (512, 12, 4), (512, 24, 8), (256, 48, 16), (128, 96, 32)]
    assert generator.mask_shapes(7) == [(7, *size) for size in maps]
    assert sum(isinstance(module, nn.ConvTranspose2d) for module in generator.modules()) == 7
    assert sum(isinstance(module, GroupBatchNorm) for module in generator.modules()) == 7


def test_every_input_reaches_the_image() -> None:
    generator = small().eval()
    codes = inputs()
    image = generator(*codes, None)
    assert image.shape == (4, 3, 32, 16)
    assert image.abs().max() < 1
    for i in range(4):
        changed = [code + 1 if i == j else code for j, code in enumerate(codes)]
        assert not torch.allclose(generator(*changed, None), image)


def test_equal_codes_make_equal_images() -> None:
    """With φ_U and noise in common, swap and auto are one image where φ_R(i) = φ_R(pos i)."""
    generator = small().eval()
    identity, unrelated, noise, classes = inputs()
    auto = generator(identity, unrelated, noise, classes, None)
    swap = generator(identity.clone(), unrelated, noise, classes, None)
    assert torch.equal(auto, swap)
    assert torch.equal(generator(identity.flatten(1), unrelated.flatten(1), noise, classes, None), auto)


def test_the_dropout_masks_decide() -> None:
    generator = small()
    codes = inputs()
    masks = [torch.rand(shape) < 0.8 for shape in generator.mask_shapes(4)]
    assert torch.equal(generator(*codes, masks), generator(*codes, masks))
    assert not torch.equal(generator(*codes, masks), generator(*codes, None))
    with pytest.raises(ValueError, match="dropout masks for 3"):
        generator(*codes, masks[:2])


def test_targets() -> None:
    """Bytes 0 and 255 of the red channel, normalised, squashed once and (inside the released discriminator) twice."""
    red = (torch.tensor([0.0, 1.0], dtype=torch.float64) - IMAGENET["mean"][0]) / IMAGENET["std"][0]
    np.testing.assert_allclose(red, [-2.117904, 2.248908], atol=1e-6)
    np.testing.assert_allclose(squash(red), [-0.971476, 0.977979], atol=1e-6)
    assert squash(squash(red))[1].item() == pytest.approx(0.752190, abs=1e-6)
    extremes = [(value - mean) / std for mean, std in zip(*IMAGENET.values(), strict=True) for value in (0.0, 1.0)]
    assert squash(torch.tensor(extremes, dtype=torch.float64)).abs().max().item() == pytest.approx(0.989867, abs=1e-6)


def test_unsquash_inverts_squash() -> None:
    images = torch.linspace(-2.64, 2.64, 101, dtype=torch.float64)
    torch.testing.assert_close(unsquash(squash(images)), images)
    assert unsquash(torch.tensor([-1.0, 1.0])).isfinite().all()
