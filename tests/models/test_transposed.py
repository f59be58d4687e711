"""The decoder of vectors: layer by layer, dropout by given masks, sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.models import GroupBatchNorm, TransposedDecoder


def make(**settings) -> TransposedDecoder:
    torch.manual_seed(0)
    return TransposedDecoder(5, (4, 6, 3), GroupBatchNorm, start=(3, 2), **settings)


def by_hand(decoder: TransposedDecoder, vectors: Tensor, masks: list[Tensor]) -> Tensor:
    """(4 vectors) → 6 × 3 × 2 → 3 × 6 × 4, every layer written out."""
    features = F.linear(vectors, decoder.fc.weight, decoder.fc.bias)
    features = F.batch_norm(features, None, None, decoder.norms[0].weight, decoder.norms[0].bias, training=True)
    features = torch.where(features > 0, features, 0.2 * features) * masks[0] / 0.8
    features = F.conv_transpose2d(features[:, :, None, None], decoder.convolutions[0].weight)
    features = F.batch_norm(features, None, None, decoder.norms[1].weight, decoder.norms[1].bias, training=True)
    features = torch.where(features > 0, features, 0.2 * features) * masks[1] / 0.8
    return F.conv_transpose2d(features, decoder.convolutions[1].weight, stride=2, padding=1)


@pytest.mark.parametrize("tanh", [False, True])
def test_layer_by_layer(tanh: bool) -> None:
    decoder = make(tanh=tanh).double()
    vectors = torch.randn(8, 5, dtype=torch.float64)
    assert decoder.mask_shapes(8) == [(8, 4), (8, 6, 3, 2)]
    masks = [torch.rand(shape) < 0.8 for shape in decoder.mask_shapes(8)]
    expected = by_hand(decoder, vectors, masks)
    found = decoder(vectors, masks)
    assert found.shape == (8, 3, 6, 4)
    torch.testing.assert_close(found, expected.tanh() if tanh else expected)
    without = by_hand(decoder, vectors, [torch.full(shape, 0.8) for shape in decoder.mask_shapes(8)])
    torch.testing.assert_close(decoder(vectors, None), without.tanh() if tanh else without)


def test_dropout_of_some_layers_and_of_none() -> None:
    vectors = torch.randn(8, 5)
    first = make(n_dropouts=1)
    assert first.mask_shapes(8) == [(8, 4)]
    assert not torch.equal(first(vectors, [torch.rand(8, 4) < 0.5]), first(vectors, None))
    assert torch.equal(make(n_dropouts=0)(vectors, []), make(n_dropouts=0)(vectors, None))
    with pytest.raises(ValueError, match="2 dropout masks for 1"):
        first(vectors, [torch.ones(8, 4)] * 2)
    assert len(make(n_dropouts=9).mask_shapes(1)) == 2  # the output has none


def test_the_rate_of_dropout_keeps_the_mean() -> None:
    decoder = make(dropout_rate=0.5, n_dropouts=1).eval()
    vectors = torch.randn(1, 5).expand(4000, 5)
    masks = [torch.rand(4000, 4, generator=torch.Generator().manual_seed(1)) >= 0.5]
    first = decoder.convolutions[0].register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    kept: list[Tensor] = []
    decoder(vectors, masks)
    decoder(vectors, None)
    first.remove()
    torch.testing.assert_close(kept[0].mean(0), kept[1].mean(0), atol=0.05, rtol=0.1)


def test_norms_are_group_batch_norms_of_all_layers_but_the_last() -> None:
    decoder = make()
    norms = [module for module in decoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert [(type(norm), norm.num_features) for norm in norms] == [(GroupBatchNorm, 4), (GroupBatchNorm, 6)]
    assert all(convolution.bias is None for convolution in decoder.convolutions)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    decoder = TransposedDecoder(800, (500, 300, 200), GroupBatchNorm, start=(3, 2))
    decoder.initialise()
    assert decoder.fc.weight.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.02)  # fan-out of a linear layer
    # PyTorch takes a transposed convolution's second dimension, its outputs, for the fan-in.
    first, second = decoder.convolutions
    assert first.weight.std().item() == pytest.approx((2 / (300 * 6)) ** 0.5, rel=0.02)
    assert second.weight.std().item() == pytest.approx((2 / (200 * 16)) ** 0.5, rel=0.02)
    assert torch.equal(decoder.norms[0].weight, torch.ones(500))
    assert decoder.norms[1].weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not any(layer.bias.any() for layer in (decoder.fc, *decoder.norms))
