"""Global pooling against its formulas."""

from __future__ import annotations

import pytest
import torch

from reid_ray.models import AveragePooling, GeMPooling, MaxPooling, build_pooling


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_average_and_max(dtype: torch.dtype) -> None:
    feature_map = torch.randn(3, 4, 5, 2, dtype=dtype)
    torch.testing.assert_close(AveragePooling()(feature_map), feature_map.flatten(2).mean(2))
    assert torch.equal(MaxPooling()(feature_map), feature_map.flatten(2).max(2).values)


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
def test_gem_is_the_generalised_mean_of_clamped_values(p: float) -> None:
    torch.manual_seed(0)
    feature_map = torch.randn(2, 3, 4, 2, dtype=torch.float64)  # negative values too: they count as 1e-6
    pooled = GeMPooling(p).double()(feature_map).detach()
    for image in range(2):
        for channel in range(3):
            values = [max(float(x), 1e-6) for x in feature_map[image, channel].flatten()]
            expected = (sum(x**p for x in values) / len(values)) ** (1 / p)
            assert float(pooled[image, channel]) == pytest.approx(expected, rel=1e-9)


def test_gem_learns_its_exponent_from_3_even_on_zeros() -> None:
    pooling = GeMPooling()
    assert pooling.p.item() == 3
    feature_map = torch.zeros(1, 2, 3, 3)
    feature_map[0, 0] = torch.rand(3, 3)
    pooling(feature_map).sum().backward()
    assert torch.isfinite(pooling.p.grad).all()
    assert pooling.p.grad.abs().item() > 0


@pytest.mark.parametrize(("name", "kind"), [("avg", AveragePooling), ("max", MaxPooling), ("gem", GeMPooling)])
def test_build_pooling(name: str, kind: type) -> None:
    assert isinstance(build_pooling(name), kind)
