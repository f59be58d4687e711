"""SSIM, and the diversity of a person's images, which papers on generative re-identification report as "SSIM".

Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", TIP 2004. DG-Net's tool (Zheng
et al., CVPR 2019) measures (1 − SSIM)/2 between images of one person, in CIE-Lab: higher means more diverse. Table 5.4
of GCL repeats its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.errors import ConfigError, DataError
from reid_ray.types import UNKNOWN, IntArray

Space = Literal["lab", "rgb"]

WINDOW, GAUSSIAN_WINDOW = 7, 11
K1, K2 = 0.01, 0.03
LAB_RANGE, RGB_RANGE = 100.0, 255.0

ROUNDS, PAIRS_PER_ROUND = 5, 10
"""Rounds, and pairs per round, that DG-Net's tool samples."""

PAIRS_AT_A_TIME = 64

_SRGB_TO_XYZ = torch.tensor(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]],
    dtype=torch.float64,
)
_D65 = torch.tensor([0.95047, 1.0, 1.08883], dtype=torch.float64)
"""White point of daylight for the 2° observer."""


def ssim(x: Tensor, y: Tensor, *, data_range: float) -> Tensor:
    """SSIM of pairs of images, float64 [N]: mean over channels and over all 7×7 windows that are inside the image.

    Windows are uniform and (co)variances are divided by n − 1 = 48, as in scikit-image's defaults, which DG-Net's tool
    uses. The paper's own form has a Gaussian window: `gaussian_ssim`.

    Args:
        x, y: [N, C, H, W], any real type; H, W ≥ 7.
        data_range: largest value − smallest value that images can have.

    Raises:
        DataError: shapes that differ, or smaller images.
    """
    _check_pairs(x, y, WINDOW)
    x, y = x.to(torch.float64), y.to(torch.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    n = WINDOW * WINDOW
    unbiased = n / (n - 1)
    var_x = unbiased * (_window_mean(x * x) - mean_x * mean_x)
    var_y = unbiased * (_window_mean(y * y) - mean_y * mean_y)
    covariance = unbiased * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def gaussian_ssim(x: Tensor, y: Tensor, *, data_range: float) -> Tensor:
    """SSIM of pairs of images as in its paper, float64 [N]: Gaussian window of 11×11 with σ 1.5, by torchmetrics.

    The mean is over channels and over windows inside the image, as in the authors' code; torchmetrics' own mean also
    includes windows at the border, with reflected pixels.

    Args:
        x, y: [N, C, H, W]; H, W ≥ 11.
        data_range: as for `ssim`.

    Raises:
        ConfigError: torchmetrics is not installed.
        DataError: shapes that differ, or smaller images.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise ConfigError("gaussian_ssim needs torchmetrics: pip install 'reid-ray[quality]'.") from error
    _check_pairs(x, y, GAUSSIAN_WINDOW)
    _, map_ = structural_similarity_index_measure(
        x.to(torch.float64), y.to(torch.float64), data_range=data_range, reduction="none", return_full_image=True
    )
    border = GAUSSIAN_WINDOW // 2
    return cast(Tensor, map_[:, :, border:-border, border:-border].mean(dim=(1, 2, 3)))


def dssim_lab(x: Tensor, y: Tensor, *, space: Space = "lab") -> Tensor:
    """DSSIM of pairs of images, (1 − SSIM)/2, float64 [N]: 0 for equal images.

    Args:
        x, y: uint8 RGB [N, 3, H, W] of one size.
        space: `lab`: CIE-Lab with range 100, as in DG-Net's and GCL's tables; `rgb`: bytes, range 255.

    Raises:
        DataError: images of other types or of different sizes.
    """
    for images in (x, y):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise DataError(f"DSSIM is of uint8 RGB images [N, 3, H, W]; got {images.dtype} {list(images.shape)}.")
    if space == "lab":
        return (1 - ssim(rgb_to_lab(x), rgb_to_lab(y), data_range=LAB_RANGE)) / 2
    return (1 - ssim(x, y, data_range=RGB_RANGE)) / 2


def identity_pairs(
    pids: IntArray, *, key: Sequence[int], rounds: int = ROUNDS, pairs_per_round: int = PAIRS_PER_ROUND
) -> IntArray:
    """Pairs int64 [P, 2] of two different images of one person, rounds · pairs_per_round for each person.

    A pair can occur more than once. People with a single image and images with an unknown pid have no pairs.

    Args:
        pids: int64 [N].
        key: of the random numbers.
    """
    rng = np.random.default_rng(list(key))
    pairs = []
    for pid in np.unique(pids[pids != UNKNOWN]):
        images = np.flatnonzero(pids == pid)
        if len(images) > 1:
            pairs += [rng.choice(images, 2, replace=False) for _ in range(rounds * pairs_per_round)]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def identity_diversity(images: Tensor, pids: IntArray, *, key: Sequence[int] = (0,), space: Space = "lab") -> float:
    """Mean DSSIM between images of the same person: the row "SSIM" of DG-Net's table and of GCL's table 5.4.

    Args:
        images: uint8 RGB [N, 3, H, W].
        pids: int64 [N].
        key: of the random pairs, see `identity_pairs`.

    Raises:
        DataError: no person has two images.
    """
    pairs = identity_pairs(pids, key=key)
    if not len(pairs):
        raise DataError("Diversity is measured between images of one identity; here none has two.")
    values = [dssim_lab(images[first], images[second], space=space) for first, second in _chunks(pairs)]
    return float(torch.cat(values).mean())


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB bytes uint8 [N, 3, H, W] → CIE-Lab float64 [N, 3, H, W] under daylight D65; L is 0 … 100."""
    encoded = images.to(torch.float64) / 255
    linear = torch.where(encoded > 0.04045, ((encoded + 0.055) / 1.055) ** 2.4, encoded / 12.92)
    xyz = torch.einsum("ij,njhw->nihw", _SRGB_TO_XYZ.to(images.device), linear)
    ratio = xyz / _D65.to(images.device)[:, None, None]
    x, y, z = torch.where(ratio > 0.008856, ratio.clamp(min=0.008856) ** (1 / 3), 7.787 * ratio + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _chunks(pairs: IntArray) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(pairs), PAIRS_AT_A_TIME):
        first, second = torch.from_numpy(pairs[start : start + PAIRS_AT_A_TIME]).unbind(1)
        yield first, second


def _window_mean(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, WINDOW, stride=1)


def _check_pairs(x: Tensor, y: Tensor, window: int) -> None:
    if x.shape != y.shape or x.ndim != 4:
        raise DataError(f"SSIM compares images of equal size; got {list(x.shape)} and {list(y.shape)}.")
    if min(x.shape[-2:]) < window:
        raise DataError(f"SSIM needs images of at least {window}×{window} pixels; got {list(x.shape[-2:])}.")
