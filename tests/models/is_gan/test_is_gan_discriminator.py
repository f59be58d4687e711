"""IS-GAN's discriminator: sizes of the sheet for both kinds of heads, layers by hand, the tanh on its input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.models.is_gan import IsGanDiscriminator, PatchTrunk


def small(**settings) -> IsGanDiscriminator:
    torch.manual_seed(0)
    return IsGanDiscriminator(5, channels=(4, 6), **settings)


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("heads", "n", "patches"), [("same_size", 3_704_528, (12, 4)), ("kernel4", 4_033_744, (10, 2))]
)
def test_sizes_of_the_paper(heads: str, n: int, patches: tuple[int, int]) -> None:
    with torch.device("meta"):
        discriminator = IsGanDiscriminator(751, heads=heads)
        images = torch.empty(2, 3, 384, 128)
        assert discriminator.trunk(images).shape == (2, 256, 12, 4)
        judgement = discriminator(images, generated=False)
    assert n_parameters(discriminator.trunk) == 1_738_976
    assert n_parameters(discriminator) == n
    assert judgement.domain.shape == (2, 1, *patches)
    assert judgement.classes.shape == (2, 751)


def instance_norm_by_loop(features: Tensor) -> Tensor:
    normalised = torch.empty_like(features)
    for i in range(features.shape[0]):
        for c in range(features.shape[1]):
            values = features[i, c]
            normalised[i, c] = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
    return normalised


def leaky(features: Tensor) -> Tensor:
    return torch.where(features > 0, features, 0.2 * features)


@pytest.mark.parametrize("heads", ["same_size", "kernel4"])
def test_layers_by_hand(heads: str) -> None:
    discriminator = small(heads=heads).double()
    images = torch.randn(2, 3, 32, 16, dtype=torch.float64)
    trunk = [layer for layer in discriminator.trunk if isinstance(layer, nn.Conv2d)]
    features = leaky(F.conv2d(images.tanh(), trunk[0].weight, trunk[0].bias, stride=2, padding=1))
    features = leaky(instance_norm_by_loop(F.conv2d(features, trunk[1].weight, trunk[1].bias, stride=2, padding=1)))

    domain = features
    *blocks, last = discriminator.domain
    for block in blocks:
        domain = leaky(instance_norm_by_loop(F.conv2d(domain, block[0].weight, block[0].bias, padding=1)))
    domain = F.conv2d(domain, last.weight, last.bias, padding=1)

    conv = discriminator.classes.block[0]
    classes = instance_norm_by_loop(F.conv2d(features, conv.weight, conv.bias, padding=1))
    classes = (leaky(classes) if heads == "same_size" else classes).mean(dim=(2, 3))
    classes = F.linear(classes, discriminator.classes.classifier.weight, discriminator.classes.classifier.bias)

    judgement = discriminator(images, generated=False)
    torch.testing.assert_close(judgement.domain, domain)
    torch.testing.assert_close(judgement.classes, classes)
    assert len(blocks) == (2 if heads == "same_size" else 1)


def test_the_tanh_on_the_input() -> None:
    """The released code squashes generated images, which are squashed already, once more."""
    both, real_only = small(), small(input_tanh="real_only")
    images = torch.randn(2, 3, 32, 16)
    generated = images.tanh()
    for discriminator in (both, real_only):
        trunk = discriminator.domain(discriminator.trunk(generated))
        assert torch.equal(discriminator(images, generated=False).domain, trunk)
    assert torch.equal(real_only(generated, generated=True).domain, real_only(images, generated=False).domain)
    assert not torch.allclose(both(generated, generated=True).domain, both(images, generated=False).domain)


def test_an_image_is_judged_alone() -> None:
    """Instance norms: neither the batch nor the mode of training changes what is said of an image."""
    discriminator = small()
    images = torch.randn(3, 3, 32, 16)
    together = discriminator(images, generated=False)
    alone = discriminator.eval()(images[1:2], generated=False)
    torch.testing.assert_close(alone.domain, together.domain[1:2])
    torch.testing.assert_close(alone.classes, together.classes[1:2])
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in discriminator.modules())
    assert not list(discriminator.buffers())


def test_the_first_layer_of_the_trunk_has_no_norm() -> None:
    kinds = [type(layer).__name__ for layer in PatchTrunk((4, 6))]
    assert kinds == ["Conv2d", "LeakyReLU", "Conv2d", "InstanceNorm2d", "LeakyReLU"]
