"""`Encoder`: compute features of images with an exported model."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from reid_ray.data.arrays import AnyImage, Channels, resized_images
from reid_ray.encoder.backends import Backend
from reid_ray.encoder.boxes import crop_boxes
from reid_ray.encoder.description import Description
from reid_ray.errors import ExportError
from reid_ray.io.files import first_line
from reid_ray.types import FloatArray


class Encoder:
    """An exported model: images → features whose cosine similarity measures whether two show the same person.

    It has no mutable state, so threads may share it.

    Example:
        >>> encoder = load_encoder("exported")                         # doctest: +SKIP
        >>> encoder.embed(["a.jpg", "b.jpg"]).shape                    # doctest: +SKIP
        (2, 2048)
        >>> encoder.embed_boxes(frame, boxes, channels="bgr").shape    # doctest: +SKIP
        (7, 2048)

    Attributes:
        description: content of the exported model's `config.json`.
        batch_size: images per forward pass.
    """

    def __init__(self, description: Description, backend: Backend, folder: Path, *, batch_size: int = 64) -> None:
        self.description = description
        self.batch_size = batch_size
        self._backend = backend
        self._folder = folder

    def __repr__(self) -> str:
        return f"Encoder({self.description.name!r}, {self.description.backbone}, {self.dim} numbers a feature)"

    @property
    def dim(self) -> int:
        """D, the size of the features."""
        return self.description.feature_size

    def embed(self, images: AnyImage | Iterable[AnyImage], *, channels: Channels = "rgb") -> FloatArray:
        """Features of images, float32 [n, D], unit rows; accepts the same images as `Run.embed`.

        Args:
            images: one image, a batch, or a list of images of any sizes and kinds: paths and URIs, encoded bytes,
                Pillow images, arrays uint8 [h, w] or [h, w, c], tensors uint8 [c, h, w].
            channels: order of the channels of arrays and tensors: "rgb", or "bgr" for OpenCV.

        Raises:
            DataError: an image is invalid or cannot be decoded.
        """
        size = self.description.input
        resized = resized_images(images, size.height, size.width, channels=channels)
        parts = []
        while batch := list(islice(resized, self.batch_size)):
            parts.append(self._backend(torch.stack(batch)))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), dtype=np.float32)

    __call__ = embed

    def embed_boxes(self, frame: AnyImage, boxes: npt.ArrayLike, *, channels: Channels = "rgb") -> FloatArray:
        """Features of the crops in the boxes of a frame, float32 [N, D]; arguments as for `boxes.crop_boxes`."""
        return self.embed(crop_boxes(frame, boxes, channels=channels))

    def save_pretrained(self, directory: str | Path) -> None:
        """Copy the exported model to another folder, which must be empty if it exists.

        Raises:
            ExportError: the folder is not empty, or cannot be written.
        """
        target = Path(directory)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ExportError(f"{target} exists and is not an empty folder; choose a new one.")
        try:
            shutil.copytree(self._folder, target, dirs_exist_ok=True)
        except OSError as error:
            raise ExportError(f"Cannot copy {self._folder} to {target} ({first_line(error)}).") from error
