"""Training views of an item, registered by name.

A view is a pure function of an item (a decoded image, cached features) and a random generator. Generators are keyed by
the sampled item, never by the process, so results do not depend on the number of workers and threads. Images stay uint8
until they are on the device, where `Pixels` completes the work.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.config import DataConfig, StrongViewConfig
from reid_ray.data.angles import ANGLES, NOVEL_ANGLES
from reid_ray.errors import MethodError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ERASE_ATTEMPTS = 100
"""Attempts to find a rectangle that fits the image before erasing is skipped, as in the original algorithm."""

Rectangle = tuple[int, int, int, int]
"""Top, left, height and width, pixels."""

NO_RECTANGLE: Rectangle = (0, 0, 0, 0)


class Pixels(NamedTuple):
    """Output of a view for one item.

    Attributes:
        values: uint8 [3, H, W] or [1, H, W], or float32 of any shape, which is used unchanged.
        erased: the rectangle that is filled after normalisation; height 0 means none.
    """

    values: Tensor
    erased: Rectangle = NO_RECTANGLE


class View(Protocol):
    """A view of one item.

    Attributes:
        source: input of the view: `image`, `feature` (cached features) or `mesh` (the projections of its body mesh).
    """

    source: ClassVar[str]

    def __call__(self, item: Any, rng: np.random.Generator) -> Pixels: ...


ViewFactory = Callable[[DataConfig], View]

VIEWS: dict[str, ViewFactory] = {}
"""Name → factory that builds the view from the settings of its data; filled by `register_view`."""

Factory = TypeVar("Factory", bound=ViewFactory)


def register_view(name: str) -> Callable[[Factory], Factory]:
    """Decorator: register a view under a name."""

    def register(factory: Factory) -> Factory:
        VIEWS[name] = factory
        return factory

    return register


def make_view(name: str, config: DataConfig) -> View:
    """The view of this name; `MethodError` naming the nearest one where there is none."""
    if name not in VIEWS:
        near = difflib.get_close_matches(name, VIEWS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"views are {', '.join(VIEWS)}."
        raise MethodError(f"There is no view '{name}'; {hint}")
    return VIEWS[name](config)


def view_rng(seed: int, epoch: int, slot: int, item: int, view: int) -> np.random.Generator:
    """The generator of one view.

    `slot` is the position in the epoch's global sequence of items: an image that is sampled twice in an epoch or in a
    batch gets two different views.
    """
    return np.random.default_rng([seed, epoch, slot, item, view])


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bicubic, antialiased resize of uint8 [3, h, w] to uint8 [3, height, width]; the same image if it fits."""
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]


def normalize(image: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] → float32, normalised by ImageNet's mean and standard deviation."""
    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return image.to(torch.float32).mul_(1 / 255).sub_(mean).div_(std)


def normalize_projection(image: Tensor) -> Tensor:
    """uint8 [..., 1, H, W] → float32 in −1 … 1; the white background becomes 1."""
    return image.to(torch.float32) / 127.5 - 1.0


class PixelBatch(NamedTuple):
    """Views of several items, to be moved to the device.

    Attributes:
        values: uint8 [n, 3, H, W] (of tracklets [n, T, 3, H, W]), uint8 [n, 1, H, W] of projections, or float32 [n, …].
        erased: int64 [n, 4] (or [n, T, 4]): top, left, height and width of the erased rectangles; None where there
            are none.
    """

    values: Tensor
    erased: Tensor | None

    def to(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Network input, in `dtype` on `device`: images normalised, then erased, in channels_last."""
        values = self.values.to(device, non_blocking=True)
        if values.dtype == torch.uint8 and values.shape[-3] == 1:
            values = normalize_projection(values)
        elif values.dtype == torch.uint8:
            values = normalize(values)
            if self.erased is not None:
                values = erase(values, self.erased.to(device, non_blocking=True))
        memory_format = torch.channels_last if values.ndim == 4 else torch.contiguous_format
        return values.to(dtype=dtype, memory_format=memory_format)

    def pin_memory(self) -> PixelBatch:
        """The same in page-locked memory, which makes copies to a GPU asynchronous."""
        return PixelBatch(self.values.pin_memory(), None if self.erased is None else self.erased.pin_memory())


def collate(pixels: Sequence[Pixels], n_frames: int = 1) -> PixelBatch:
    """Views of n·T items, in order, as a batch of n; [n, T, …] where T = `n_frames` is more than 1."""
    values = torch.stack([one.values for one in pixels])
    erased = torch.tensor([one.erased for one in pixels]) if any(one.erased[2] for one in pixels) else None
    if n_frames > 1:
        values = values.reshape(-1, n_frames, *values.shape[1:])
        erased = None if erased is None else erased.reshape(-1, n_frames, 4)
    return PixelBatch(values, erased)


def erase(images: Tensor, rectangles: Tensor) -> Tensor:
    """Fill a rectangle of each image [..., 3, H, W] with the values of ImageNet's mean; height 0 fills nothing."""
    top, left, height, width = (side[..., None, None, None] for side in rectangles.unbind(-1))
    y = torch.arange(images.shape[-2], device=images.device)[:, None]
    x = torch.arange(images.shape[-1], device=images.device)
    inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    fill = torch.tensor(IMAGENET_MEAN, dtype=images.dtype, device=images.device)[:, None, None]
    return torch.where(inside, fill, images)


@register_view("resize")
@dataclass(frozen=True)
class ResizedView:
    """The unchanged image at the configured size."""

    config: DataConfig
    source: ClassVar[str] = "image"

    def __call__(self, item: Tensor, rng: np.random.Generator) -> Pixels:
        return Pixels(item)


@register_view("flip")
@dataclass(frozen=True)
class FlippedView:
    """The image, mirrored with the probability of `strong.flip`."""

    config: DataConfig
    source: ClassVar[str] = "image"

    def __call__(self, item: Tensor, rng: np.random.Generator) -> Pixels:
        return Pixels(item.flip(-1) if rng.random() < self.config.strong.flip else item)


@register_view("feature")
@dataclass(frozen=True)
class FeatureView:
    """One of the cached features of an item, float32 [copies, D] → [D]."""

    config: DataConfig
    source: ClassVar[str] = "feature"

    def __call__(self, item: Tensor, rng: np.random.Generator) -> Pixels:
        return Pixels(item[rng.integers(len(item))])


@register_view("strong")
@dataclass(frozen=True)
class StrongView:
    """Pad, random crop, flip, Gaussian blur, normalise, random erasing, in this order.

    The erased rectangle is filled *after* normalisation with the values of ImageNet's mean, as in the released code; so
    it is light grey, not the mean.
    """

    data: DataConfig
    source: ClassVar[str] = "image"

    @property
    def config(self) -> StrongViewConfig:
        return self.data.strong

    def __call__(self, item: Tensor, rng: np.random.Generator) -> Pixels:
        """uint8 [3, H, W] → uint8 [3, H, W] and the rectangle to erase."""
        config = self.config
        height, width = item.shape[-2:]
        top, left = rng.integers(0, 2 * config.pad + 1, size=2).tolist()
        image = F.pad(item, [config.pad] * 4)[..., top : top + height, left : left + width]
        if rng.random() < config.flip:
            image = image.flip(-1)
        if rng.random() < config.blur:
            image = blur(image, float(rng.uniform(*config.blur_sigma)))
        return Pixels(image, self._rectangle(height, width, rng))

    def _rectangle(self, height: int, width: int, rng: np.random.Generator) -> Rectangle:
        if rng.random() >= self.config.erase:
            return NO_RECTANGLE
        for _ in range(ERASE_ATTEMPTS):
            area = rng.uniform(*self.config.erase_area) * height * width
            aspect = rng.uniform(*self.config.erase_aspect)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
        return NO_RECTANGLE


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of a uint8 image; the kernel covers three standard deviations on each side."""
    from torchvision.transforms.v2.functional import gaussian_blur  # slow to import; extraction does without it

    size = 2 * max(1, math.ceil(3 * sigma)) + 1
    blurred: Tensor = gaussian_blur(image, [size, size], [sigma, sigma])
    return blurred


@dataclass(frozen=True)
class ProjectionView:
    """The body mesh of an image, rotated by one of several angles, uint8 [1, H, W].

    Registered as `projection@0` … `projection@315`; as `projection@seven` and `projection@six` the angle is a random
    novel one (`NOVEL_ANGLES`).
    """

    config: DataConfig
    angles: tuple[int, ...]
    source: ClassVar[str] = "mesh"

    def __call__(self, item: Callable[[int], Tensor], rng: np.random.Generator) -> Pixels:
        """Angle → projection, as `TableMeshes` gives it for a row."""
        return Pixels(item(self.angles[rng.integers(len(self.angles))]))


for _name, _angles in ({str(angle): (angle,) for angle in ANGLES} | NOVEL_ANGLES).items():
    register_view(f"projection@{_name}")(partial(ProjectionView, angles=_angles))
