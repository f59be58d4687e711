"""Read each exported file back and compare it with the run, before the export is complete."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reid_ray.data.views import resize
from reid_ray.encoder.backends import NetworkBackend
from reid_ray.encoder.encoder import Encoder
from reid_ray.encoder.loading import load_encoder
from reid_ray.encoder.rebuilding import in_float32
from reid_ray.encoder.torchreid import rectified
from reid_ray.errors import ExportError, UserError
from reid_ray.io.files import first_line
from reid_ray.run import Run
from reid_ray.types import FloatArray

N_IMAGES = 64
MIN_COSINE = 0.9999


@dataclass(frozen=True)
class Check:
    """The comparison of one file.

    Attributes:
        file: its name.
        cosine: the smallest cosine between the features of an image by the file and by the run.
        images: description of the compared images.
        exact: whether a cosine below `MIN_COSINE` is an error; false for int8.
    """

    file: str
    cosine: float
    images: str
    exact: bool

    @property
    def passed(self) -> bool:
        return self.cosine > MIN_COSINE or not self.exact


class Compared(NamedTuple):
    """Images for comparing features.

    Attributes:
        pixels: uint8 [64, 3, H, W].
        source: description of the images, for messages.
        real: whether they are images of the run.
    """

    pixels: Tensor
    source: str
    real: bool


def check_files(
    run: Run, folder: Path, names: Sequence[str], images: Compared, *, inexact: Sequence[str] = ()
) -> list[Check]:
    """Compare files of an exported folder with the run.

    Weights are compared with features extracted by the run itself. Programs compute in float32 and are compared with
    the run's network in float32, because bfloat16 may change a feature by more than an exporter does; torchreid's
    network with the features that its ReLU leaves.

    Raises:
        ExportError: features differ.
    """
    pixels = images.pixels
    device = next(run.model.parameters()).device
    as_run = run.embed(pixels)
    in_single = NetworkBackend(in_float32(copy.deepcopy(run.model)), torch.device("cpu"))(pixels)
    checks = []
    for name in names:
        encoder = load_encoder(folder / name, device=device, batch_size=run.config.evaluation.batch_size)
        kind, source = encoder.description.files[name].kind, images.source
        expected = as_run if kind == "weights" else in_single
        if kind == "torchreid":
            expected, source = rectified(torch.from_numpy(in_single)).numpy(), f"rectified, {source}"
        cosine = smallest_cosine(_embedded(encoder, pixels, folder / name), expected)
        checks.append(Check(name, cosine, source, exact=name not in inexact))
    for check in checks:
        if not check.passed:
            raise ExportError(
                f"{folder / check.file} gives other features than {run.path}: the smallest cosine on {check.images} is "
                f"{check.cosine:.6f}, and must be above {MIN_COSINE}; the file cannot be used."
            )
    return checks


def _embedded(encoder: Encoder, pixels: Tensor, file: Path) -> FloatArray:
    """Features of a file; `ExportError` if it cannot compute them."""
    try:
        return encoder.embed(pixels)
    except Exception as error:  # each runtime of programs raises exceptions of its own
        raise ExportError(
            f"{file} cannot compute features of {len(pixels)} images ({first_line(error)}); export another format."
        ) from error


def images_to_compare(run: Run) -> Compared:
    """Test images of the run, or noise if its images are not available."""
    size = run.config.data.height, run.config.data.width
    try:
        dataset = run.dataset
        table = next(split for split in (dataset.query, dataset.gallery, dataset.train) if len(split))
        rows = np.linspace(0, len(table) - 1, N_IMAGES).round().astype(int)
        pixels = torch.stack([resize(dataset.images.read(table.paths[row]), *size) for row in rows])
        return Compared(pixels, f"{N_IMAGES} images of {table.name}", real=True)
    except (UserError, StopIteration):
        noise = np.random.default_rng(0).integers(0, 256, (N_IMAGES, 3, *size), dtype=np.uint8)
        source = f"{N_IMAGES} images of noise, since the run's own cannot be read"
        return Compared(torch.from_numpy(noise), source, real=False)


def smallest_cosine(found: FloatArray, expected: FloatArray) -> float:
    """Smallest cosine between corresponding rows of two arrays [n, D]; NaN counts as −1."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.einsum("nd,nd->n", found.astype(np.float64), expected.astype(np.float64)) / norms
    return float(np.nan_to_num(cosines, nan=-1).min())
