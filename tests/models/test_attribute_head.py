"""Splitting a feature for attributes and identity, and predicting attributes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from reid_ray.config import ModelConfig
from reid_ray.errors import ConfigError
from reid_ray.inference.folding import for_extraction
from reid_ray.models import AttributeEmbedder, AttributeHead, build_embedder


def small(n_values: tuple[int, ...] = (2, 4, 2), piece_dim: int = 5, **settings) -> AttributeEmbedder:
    torch.manual_seed(0)
    embedder = build_embedder(ModelConfig(backbone="resnet18", weights=None, bn_group=4))
    return AttributeEmbedder(embedder, AttributeHead(n_values, piece_dim), **settings)


@pytest.mark.parametrize(("n_attributes", "identity_dim"), [(27, 1616), (23, 1680)], ids=["Market-1501", "DukeMTMC"])
def test_sizes_of_the_paper(monkeypatch: pytest.MonkeyPatch, n_attributes: int, identity_dim: int):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know the meta device
    with torch.device("meta"):
        model = AttributeEmbedder(build_embedder(ModelConfig(weights=None)), AttributeHead([2] * n_attributes))
        found = model.eval()(torch.empty(2, 3, 256, 128))
    assert model.dim == model.identity_dim == found.identity.shape[1] == identity_dim
    assert found.attributes.shape[1] == model.head.dim == 16 * n_attributes
    assert model.head.weight.shape == (n_attributes, 2, 16)


@pytest.mark.parametrize("retrieve", ["id", "all"])
def test_parts_of_the_feature(retrieve: str):
    model = small(retrieve=retrieve).eval()
    images = torch.randn(3, 3, 64, 32)
    pooled, feature = model.embedder(images)
    found = model(images)
    assert torch.equal(found.pooled, pooled)
    assert torch.equal(torch.cat([found.attributes, found.identity], dim=1), feature)
    assert found.attributes.shape == (3, 15)
    expected = feature[:, 15:] if retrieve == "id" else feature
    assert model.dim == expected.shape[1]
    torch.testing.assert_close(model.embed(images), expected / expected.norm(dim=1, keepdim=True))


def test_predictions_are_the_nearest_values():
    head = AttributeHead([2, 4, 3], piece_dim=5)
    features = torch.randn(6, 15, generator=torch.Generator().manual_seed(1))
    cosines, found = head(features), head.predict(features)
    for n in range(6):
        for m, size in enumerate((2, 4, 3)):
            piece = features[n, 5 * m : 5 * m + 5]
            expected = [F.cosine_similarity(piece, head.weight[m, v], dim=0).item() for v in range(size)]
            assert cosines[n, m, :size].tolist() == pytest.approx(expected, abs=1e-6)
            assert found[n, m] == expected.index(max(expected))
            assert (cosines[n, m, size:] == -torch.inf).all()


def test_a_value_that_an_attribute_lacks_is_never_predicted():
    head = AttributeHead([2, 3], piece_dim=2)
    with torch.no_grad():
        head.weight[0] = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    assert head.predict(torch.tensor([[-1.0, 0.5, 1, 0]]))[0, 0] == 1


def test_predictions_survive_extraction():
    model = small().eval()
    images = torch.randn(4, 3, 64, 32)
    found = for_extraction(model).predict_attributes(images)
    assert found.dtype == torch.int64
    assert torch.equal(found, model.head.predict(model(images).attributes))


def test_sizes_that_cannot_be():
    with pytest.raises(ConfigError, match="at least two"):
        AttributeHead([2, 1])
    with pytest.raises(ConfigError, match="at least two"):
        AttributeHead([])
    with pytest.raises(ConfigError, match=r"take 512 of the feature's 512 entries"):
        small((2,) * 32, 16)
