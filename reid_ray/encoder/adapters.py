"""Adapters with the call signatures of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from reid_ray.data.arrays import Channels
from reid_ray.encoder.encoder import Encoder
from reid_ray.encoder.loading import load_encoder
from reid_ray.types import FloatArray


class FeatureExtractor:
    """Interface of torchreid's `FeatureExtractor`: a path, an array or a list of them → tensor [N, D] on the CPU.

    As in torchreid, arrays are RGB [h, w, 3]. Unlike there, features are L2-normalised.
    """

    def __init__(self, model_path: str | Path, *, device: str | None = None, **_: Any) -> None:
        self.encoder = load_encoder(model_path, device=device)

    def __call__(self, images: Any) -> Tensor:
        return torch.from_numpy(self.encoder.embed(images))


def for_tracker(encoder: Encoder, *, channels: Channels = "bgr") -> Callable[[Any, npt.ArrayLike], FloatArray]:
    """`(image, boxes [N, 4]) -> [N, D]`, as trackers call an appearance model.

    Args:
        channels: order of the frames' channels; OpenCV reads BGR.
    """

    def features(image: Any, boxes: npt.ArrayLike) -> FloatArray:
        return encoder.embed_boxes(image, boxes, channels=channels)

    return features
