"""A hand-crafted descriptor without training: a lower bound for learnt features.

Colour histograms over six horizontal stripes are the colour part of Gray and Tao, "Viewpoint Invariant
Pedestrian Recognition with an Ensemble of Localized Features", ECCV 2008; the joint 8 × 8 × 8 HSV histogram
is that of Liao et al., "Person Re-identification by Local Maximal Occurrence Representation and Metric
Learning", CVPR 2015.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.evaluation.protocols import evaluate_table
from reid_ray.evaluation.ranking import APForm, RankMetrics

PIXELS_AT_A_TIME = 2**21
"""Limits the float copies of a chunk to tens of megabytes."""


def colour_histogram(images: Tensor, n_stripes: int = 6, bins: int = 8) -> Tensor:
    """Joint HSV histograms of horizontal stripes.

    Each stripe's histogram h is a distribution; its square root has unit length, and all stripes together
    are scaled to unit length. The dot product of two descriptors is thus the mean over stripes of the
    Bhattacharyya coefficient Σ √(h·h'), between 0 (no common colour) and 1.

    Args:
        images: uint8 RGB [N, 3, H, W]; N may be 0.
        n_stripes: horizontal stripes of (nearly) equal height, at most H.
        bins: bins of each of hue, saturation and value.

    Returns:
        float32 [N, n_stripes · bins³], L2-normalised, on the images' device.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"images should be uint8 [N, 3, H, W], not {images.dtype} {list(images.shape)}")
    height, width = images.shape[2:]
    if not (1 <= n_stripes <= height and width and bins >= 1):
        raise ValueError(f"{n_stripes} stripes of {bins} bins cannot be made of images of {height}×{width} pixels")
    chunk = max(1, PIXELS_AT_A_TIME // (height * width))
    starts = range(0, max(1, len(images)), chunk)
    return torch.cat([_histogram(images[start : start + chunk], n_stripes, bins) for start in starts])


def histogram_metrics(dataset: Dataset, ap: APForm = "mean") -> RankMetrics:
    """Metrics of the descriptor on a dataset's query and gallery.

    Raises `DataError` if the dataset cannot be evaluated, or an image cannot be read.
    """

    def features(table: ImageTable) -> Tensor:
        return torch.cat([colour_histogram(dataset.images.read(path)[None]) for path in table.paths])

    return evaluate_table(features(dataset.query), features(dataset.gallery), dataset.table, ap=ap)


def _histogram(images: Tensor, n_stripes: int, bins: int) -> Tensor:
    n, _, height, _ = images.shape
    n_cells = bins**3
    hue, saturation, value = ((channel * bins).long().clamp_(max=bins - 1) for channel in _hsv(images))
    stripe = torch.arange(height, device=images.device) * n_stripes // height
    image = torch.arange(n, device=images.device)
    histogram_index = image[:, None] * n_stripes + stripe
    cell = ((histogram_index[:, :, None] * bins + hue) * bins + saturation) * bins + value
    counts = torch.bincount(cell.flatten(), minlength=n * n_stripes * n_cells).view(n, n_stripes, n_cells)
    roots = (counts / counts.sum(dim=2, keepdim=True)).sqrt()
    return (roots / math.sqrt(n_stripes)).flatten(1).float()


def _hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation and value, each float32 [N, H, W] in 0 … 1; the hue of a grey pixel is 0."""
    rgb = images.float() / 255
    value, brightest = rgb.max(dim=1)
    chroma = value - rgb.amin(dim=1)
    divisor = torch.where(chroma > 0, chroma, 1)
    saturation = torch.where(value > 0, chroma / torch.where(value > 0, value, 1), 0)
    red, green, blue = rgb.unbind(dim=1)
    sectors = torch.stack([(green - blue) / divisor % 6, (blue - red) / divisor + 2, (red - green) / divisor + 4])
    hue = sectors.gather(0, brightest[None])[0] / 6
    return torch.where(chroma > 0, hue, 0), saturation, value
