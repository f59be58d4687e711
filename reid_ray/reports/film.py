"""Tracklets as film strips for the ranked gallery: some of their frames side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.config import Config
from reid_ray.data.images import Dataset, ImageReader
from reid_ray.data.table import ImageTable
from reid_ray.data.tracklets import even_frames, number_tracklets, tracklet_rows, tracklet_table
from reid_ray.evaluation.protocols import protocol_of
from reid_ray.training.datasets import query_and_gallery

N_FRAMES = 4
FRAME_WIDTH = 0.62
"""Width of a frame in a ranked gallery, relative to a single crop."""

GAP = 2
"""Pixels between two frames."""


@dataclass(frozen=True)
class FilmStrips:
    """Reads the strip of a tracklet by its key: frames side by side on black, with perforation above and below.

    Attributes:
        images: reads the frames.
        frames: key → paths of the frames.
        height, width: of a frame, pixels.
    """

    images: ImageReader
    frames: Mapping[str, Sequence[str]]
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a strip, pixels."""
        return self.height + 2 * self._border, N_FRAMES * (self.width + GAP) + GAP

    @property
    def _border(self) -> int:
        return max(4, self.height // 14)

    def read(self, path: str) -> Tensor:
        """uint8 RGB [3, h, w]."""
        strip = torch.zeros(3, *self.size, dtype=torch.uint8)
        border, hole = self._border, max(2, self._border // 2)
        for start in range(hole, self.size[1] - hole, 3 * hole):
            for top in (border // 4, self.size[0] - border // 4 - hole):
                strip[:, top : top + hole, start : start + hole] = 220
        for number, frame in enumerate(self.frames[path]):
            left = GAP + number * (self.width + GAP)
            strip[:, border : border + self.height, left : left + self.width] = self._resized(frame)
        return strip

    def _resized(self, path: str) -> Tensor:
        image = self.images.read(path)[None].float()
        resized = F.interpolate(image, (self.height, self.width), mode="bicubic", antialias=True)[0]
        return resized.round().clamp(0, 255).to(torch.uint8)


def film_strips(dataset: Dataset, *, height: int, width: int) -> tuple[Dataset, FilmStrips]:
    """A dataset with one row per tracklet, whose image is a film strip of 4 evenly spaced frames.

    Rows are in the order of `tracklet_table` and of pooled features. Shorter tracklets repeat frames.

    Args:
        height, width: of a frame, pixels.
    """
    table = tracklet_table(dataset.table)
    paths = dataset.table.paths
    frames = {
        str(number): [paths[row] for row in rows[even_frames(len(rows), N_FRAMES)].tolist()]
        for number, rows in enumerate(tracklet_rows(number_tracklets(dataset.table)))
    }
    keys = pa.array(list(frames), pa.string())
    index = table.arrow.column_names.index("path")
    named = ImageTable(table.arrow.set_column(index, table.arrow.schema.field("path"), keys), dataset.table.name)
    strips = FilmStrips(dataset.images, frames, height, width)
    return Dataset(named, strips), strips


class ComparedItems(NamedTuple):
    """What a protocol compares, as images.

    Attributes:
        dataset: query and gallery rows, one per item; it reads crops, or film strips of tracklets.
        height, width: as drawn, pixels.
        cell: width of a drawn image relative to a single crop.
    """

    dataset: Dataset
    height: int
    width: int
    cell: float


def compared_images(dataset: Dataset, config: Config, height: int) -> ComparedItems:
    """The images to draw for the items that the protocol compares: crops, or tracklets as film strips.

    Args:
        dataset: with query and gallery splits.
        config: sets the protocol and the shape of images.
        height: of a crop as drawn, pixels.
    """
    width = max(1, round(height * config.data.width / config.data.height))
    if protocol_of(config.evaluation).unit != "tracklet":
        return ComparedItems(dataset, height, width, 1.0)
    tested = Dataset(query_and_gallery(dataset.table, config.evaluation), dataset.images)
    shown, strips = film_strips(tested, height=height, width=width)
    return ComparedItems(shown, *strips.size, N_FRAMES * FRAME_WIDTH)
