"""The views of an image that training sees: `strong` (augmented) and `weak` (resized only), as in ICE.

A view is a pure function of the decoded image and a random generator. Generators are keyed by what is drawn, never
by which process draws it, so any number of workers and threads sees the same pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from reid_ray.config import StrongViewConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ERASE_ATTEMPTS = 100
"""Tries to find a rectangle that fits the image before erasing is given up, as the original algorithm does."""


def view_rng(seed: int, epoch: int, slot: int, image: int, view: int) -> np.random.Generator:
    """The generator of one view.

    `slot` is the place in the epoch's global sequence of images: an image that is drawn twice in an epoch, or twice
    in a batch, gets two different views.
    """
    return np.random.default_rng([seed, epoch, slot, image, view])


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bicubic, antialiased resize of uint8 [3, h, w] to uint8 [3, height, width]; the same image if it fits."""
    if image.shape[-2:] == (height, width):
        return image
    resized: Tensor = F.resize(image, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return resized


def normalize(image: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] → float32 with ImageNet's mean and deviation removed."""
    normalized: Tensor = F.normalize(F.to_dtype(image, torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD)
    return normalized


@dataclass(frozen=True)
class StrongView:
    """Pad, random crop, flip, Gaussian blur, normalise, random erasing, in this order.

    The erased rectangle is filled *after* normalisation with the numbers of ImageNet's mean, as the released code
    does; so it is a light grey, not the mean.
    """

    config: StrongViewConfig

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """uint8 [3, H, W] → normalised float32 [3, H, W]."""
        config = self.config
        height, width = image.shape[-2:]
        top, left = rng.integers(0, 2 * config.pad + 1, size=2).tolist()
        image = F.crop(F.pad(image, [config.pad]), top, left, height, width)
        if rng.random() < config.flip:
            image = F.horizontal_flip(image)
        if rng.random() < config.blur:
            image = blur(image, float(rng.uniform(*config.blur_sigma)))
        pixels = normalize(image)
        if rng.random() < config.erase:
            pixels = self._erase(pixels, rng)
        return pixels

    def _erase(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        height, width = pixels.shape[-2:]
        for _ in range(ERASE_ATTEMPTS):
            area = rng.uniform(*self.config.erase_area) * height * width
            aspect = rng.uniform(*self.config.erase_aspect)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
                fill = torch.tensor(IMAGENET_MEAN, dtype=pixels.dtype)[:, None, None]
                pixels = F.erase(pixels, top, left, h, w, fill)
                break
        return pixels


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of a uint8 image; the kernel covers three standard deviations on each side."""
    size = 2 * max(1, math.ceil(3 * sigma)) + 1
    blurred: Tensor = F.gaussian_blur(image, [size, size], [sigma, sigma])
    return blurred
