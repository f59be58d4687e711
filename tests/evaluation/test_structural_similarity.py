"""SSIM window by window, colours by published values, and the pairs that diversity is a mean over."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from reid_ray.errors import ConfigError, DataError
from reid_ray.evaluation import dssim_lab, gaussian_ssim, identity_diversity, identity_pairs, ssim
from reid_ray.evaluation.structural_similarity import rgb_to_lab


def naive_ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for channel_x, channel_y in zip(x, y, strict=True):
        for row in range(x.shape[1] - 6):
            for column in range(x.shape[2] - 6):
                a = channel_x[row : row + 7, column : column + 7].ravel()
                b = channel_y[row : row + 7, column : column + 7].ravel()
                (var_a, covariance), (_, var_b) = np.cov(a, b)
                luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
                values.append(luminance * (2 * covariance + c2) / (var_a + var_b + c2))
    return float(np.mean(values))


def pictures(seed: int, n: int = 3, size: tuple[int, int] = (11, 9)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, *size), generator=generator, dtype=torch.uint8)


def test_numbers_of_the_reference() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert float(ssim(x, x.transpose(2, 3), data_range=63)) == pytest.approx(0.248130, abs=1e-6)
    assert float(ssim(x, 63 - x, data_range=63)) == pytest.approx(-0.954873, abs=1e-6)
    assert float(1 - ssim(x, x.transpose(2, 3), data_range=63)) / 2 == pytest.approx(0.375935, abs=1e-6)
    assert float(1 - ssim(x, 63 - x, data_range=63)) / 2 == pytest.approx(0.977437, abs=1e-6)


@pytest.mark.parametrize("data_range", [255.0, 100.0])
def test_ssim(data_range: float) -> None:
    x, y = pictures(0), pictures(1)
    y[1] = x[1] // 2
    for i, found in enumerate(ssim(x, y, data_range=data_range)):
        assert float(found) == pytest.approx(naive_ssim(x[i].double().numpy(), y[i].double().numpy(), data_range))
    torch.testing.assert_close(ssim(x, y, data_range=255), ssim(y, x, data_range=255))
    torch.testing.assert_close(ssim(x, x, data_range=255), torch.ones(3, dtype=torch.float64))


def test_colours_by_published_values() -> None:
    colours = {
        (255, 255, 255): (100, 0, 0),
        (0, 0, 0): (0, 0, 0),
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 255, 0): (87.73, -86.18, 83.18),
        (0, 0, 255): (32.30, 79.19, -107.86),
        (119, 119, 119): (50.03, 0, 0),
        (2, 2, 2): (0.548, 0, 0),
    }
    pixels = torch.tensor(list(colours), dtype=torch.uint8).T.reshape(1, 3, 1, -1)
    found = rgb_to_lab(pixels)[0, :, 0].T
    torch.testing.assert_close(found, torch.tensor(list(colours.values()), dtype=torch.float64), rtol=0, atol=0.02)


@pytest.mark.parametrize("space", ["lab", "rgb"])
def test_dssim(space: str) -> None:
    x, y = pictures(2), pictures(3)
    found = dssim_lab(x, y, space=space)
    for i in range(3):
        if space == "lab":
            a, b, data_range = rgb_to_lab(x)[i].numpy(), rgb_to_lab(y)[i].numpy(), 100.0
        else:
            a, b, data_range = x[i].double().numpy(), y[i].double().numpy(), 255.0
        assert float(found[i]) == pytest.approx((1 - naive_ssim(a, b, data_range)) / 2)
    assert (dssim_lab(x, x, space=space).abs() < 1e-12).all()
    assert dssim_lab(x, y).tolist() == dssim_lab(x, y, space="lab").tolist()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (pictures(0), pictures(0, size=(12, 9)), "images of equal size"),
        (pictures(0), pictures(0)[:2], "images of equal size"),
        (pictures(0, size=(6, 20)), pictures(1, size=(6, 20)), r"at least 7×7 pixels; got \[6, 20\]"),
        (pictures(0).float(), pictures(1).float(), r"uint8 RGB images \[N, 3, H, W\]; got torch.float32"),
        (pictures(0)[:, :1], pictures(1)[:, :1], "uint8 RGB images"),
        (pictures(0)[0], pictures(1)[0], "uint8 RGB images"),
    ],
)
def test_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        dssim_lab(x, y)


def test_pairs_of_one_person() -> None:
    pids = np.array([4, 4, -1, 9, -1, 7, 7, 7])
    pairs = identity_pairs(pids, key=(0,))
    assert pairs.shape == (100, 2)
    assert (pids[pairs[:, 0]] == pids[pairs[:, 1]]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert Counter(pids[pairs[:, 0]].tolist()) == {4: 50, 7: 50}
    drawn = {tuple(sorted(pair)) for pair in pairs[50:].tolist()}
    assert drawn == {(5, 6), (5, 7), (6, 7)}
    assert np.array_equal(identity_pairs(pids, key=(0,)), pairs)
    assert not np.array_equal(identity_pairs(pids, key=(1,)), pairs)
    assert identity_pairs(pids, key=(0,), rounds=2, pairs_per_round=3).shape == (12, 2)
    assert identity_pairs(np.array([1, 2, -1, -1]), key=(0,)).shape == (0, 2)


def test_diversity_is_the_mean_over_pairs() -> None:
    images, pids = pictures(4, n=6), np.array([0, 0, 1, 1, 1, 2])
    pairs = identity_pairs(pids, key=(3,))
    expected = np.mean([float(dssim_lab(images[[a]], images[[b]])) for a, b in pairs])
    assert identity_diversity(images, pids, key=(3,)) == pytest.approx(expected)
    assert identity_diversity(images, pids, key=(3,), space="rgb") != pytest.approx(expected)
    same = images[:1].expand(4, -1, -1, -1)
    assert identity_diversity(same, np.zeros(4, dtype=np.int64)) == pytest.approx(0)
    with pytest.raises(DataError, match="here none has two"):
        identity_diversity(images, np.arange(6))


def naive_gaussian_ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Wang et al.: weighted moments in 11×11 windows, population variances; windows inside the image only."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for channel_x, channel_y in zip(x, y, strict=True):
        for row in range(x.shape[1] - 10):
            for column in range(x.shape[2] - 10):
                a = channel_x[row : row + 11, column : column + 11]
                b = channel_y[row : row + 11, column : column + 11]
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * a * a).sum() - mean_a**2, (weights * b * b).sum() - mean_b**2
                covariance = (weights * a * b).sum() - mean_a * mean_b
                luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
                values.append(luminance * (2 * covariance + c2) / (var_a + var_b + c2))
    return float(np.mean(values))


def test_gaussian_window() -> None:
    pytest.importorskip("torchmetrics")
    x, y = pictures(5, size=(15, 14)), pictures(6, size=(15, 14))
    y[0] = x[0] // 2 + 20
    for i, found in enumerate(gaussian_ssim(x, y, data_range=255)):
        expected = naive_gaussian_ssim(x[i].double().numpy(), y[i].double().numpy(), 255)
        assert float(found) == pytest.approx(expected, rel=1e-6)


def test_images_smaller_than_the_gaussian_window() -> None:
    pytest.importorskip("torchmetrics")
    with pytest.raises(DataError, match="11×11 pixels or more"):
        gaussian_ssim(pictures(0, size=(20, 10)), pictures(1, size=(20, 10)), data_range=255)
    assert gaussian_ssim(pictures(0, size=(11, 11)), pictures(1, size=(11, 11)), data_range=255).shape == (3,)


def test_without_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(ConfigError, match=r"pip install 'reid-ray\[quality\]'"):
        gaussian_ssim(pictures(0), pictures(1), data_range=255)
