"""The Fréchet distance against SciPy's matrix square root, for many samples and few, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from reid_ray.errors import DataError
from reid_ray.evaluation import frechet_distance


def naive_distance(x: np.ndarray, y: np.ndarray) -> float:
    s_x, s_y = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    root = scipy.linalg.sqrtm(s_x @ s_y)
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + np.trace(s_x) + np.trace(s_y) - 2 * np.trace(root).real)


def samples(seed: int, n: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)


@pytest.mark.parametrize(("n", "m"), [(200, 300), (50, 9), (9, 50), (8, 8), (9, 10), (400, 17)])
@pytest.mark.parametrize("dim", [1, 8])
def test_many_samples(n: int, m: int, dim: int) -> None:
    x, y = samples(0, n, dim), samples(1, m, dim)
    assert frechet_distance(x, y) == pytest.approx(naive_distance(x, y), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 12), (12, 5), (5, 200), (200, 5), (30, 30)])
def test_fewer_samples_than_dimensions(n: int, m: int) -> None:
    """Covariances are singular; the eigenvalues of their product give its root's trace with less care than needed."""
    x, y = samples(2, n, 30), samples(3, m, 30)
    eigenvalues = np.linalg.eigvals(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False))
    trace = np.sqrt(np.clip(eigenvalues.real, 0, None)).sum()
    shift = x.mean(axis=0) - y.mean(axis=0)
    expected = shift @ shift + x.var(axis=0, ddof=1).sum() + y.var(axis=0, ddof=1).sum() - 2 * trace
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)


def test_by_hand() -> None:
    """In one dimension: (μ₁ − μ₂)² + (σ₁ − σ₂)²."""
    x, y = np.array([[1.0], [3.0]]), np.array([[10.0], [10.0], [16.0]])
    assert frechet_distance(x, y) == pytest.approx((2 - 12) ** 2 + (np.sqrt(2) - np.sqrt(12)) ** 2)


@pytest.mark.parametrize("n", [6, 100])
def test_what_does_not_change_and_what_does(n: int) -> None:
    x, y = samples(4, n, 12), samples(5, n + 3, 12)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))
    shift = np.arange(12.0)
    assert frechet_distance(x, x + shift) == pytest.approx(shift @ shift)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    assert frechet_distance(x @ turn + shift, y @ turn + shift) == pytest.approx(frechet_distance(x, y))
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * frechet_distance(x, y))


def test_duplicates_and_constant_dimensions() -> None:
    x = np.repeat(samples(6, 3, 5), 4, axis=0)
    x[:, 2] = 7.0
    y = np.ones((6, 5))
    assert frechet_distance(x, y) == pytest.approx(np.square(x.mean(axis=0) - 1).sum() + x.var(axis=0, ddof=1).sum())
    assert frechet_distance(y, y) == 0.0


def test_types() -> None:
    x, y = samples(7, 20, 4), samples(8, 20, 4)
    expected = frechet_distance(x, y)
    assert isinstance(expected, float)
    assert frechet_distance(torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)) == expected
    assert frechet_distance(x.astype(np.float32), y) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((3, 4)), np.ones((3, 5)), "got 4 and 5 dimensions"),
        (np.ones((1, 4)), np.ones((3, 4)), "two samples or more; the first features are of 1"),
        (np.ones((3, 4)), np.ones((0, 4)), "the second features are of 0"),
        (np.ones(4), np.ones((3, 4)), r"first features have shape \[4\]"),
        (np.ones((3, 0)), np.ones((3, 0)), r"shape \[3, 0\]"),
        (np.ones((3, 4)), np.full((3, 4), np.nan), "second features hold NaN"),
    ],
)
def test_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        frechet_distance(x, y)


@pytest.mark.parametrize("n", [30, 6])
def test_torchmetrics_computes_the_same(n: int) -> None:
    torchmetrics = pytest.importorskip("torchmetrics.image.fid")

    class Features(torch.nn.Module):
        num_features = 8

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :8]

    fid = torchmetrics.FrechetInceptionDistance(feature=Features())
    fid.set_dtype(torch.float64)
    x, y = (torch.from_numpy(samples(seed, n, 8)).reshape(n, 2, 2, 2) for seed in (9, 10))
    fid.update(x, real=True)
    fid.update(y, real=False)
    expected = frechet_distance(x.flatten(1), y.flatten(1))
    assert float(fid.compute()) == pytest.approx(expected, rel=1e-4)
