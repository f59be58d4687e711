"""Convert linear light to the bytes of a surveillance crop: optics, resolution, colours, noise, compression.

All randomness comes from the generator that is passed in, so that a key always gives the same bytes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from reid_ray.data.synthetic.body import Array
from reid_ray.data.synthetic.cameras import Sensor
from reid_ray.data.synthetic.compiled import compiled
from reid_ray.data.synthetic.render import FloatImage

_TONES = 2048


def expose(
    light: FloatImage, sensor: Sensor, exposure: float, motion: float, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Linear RGB [H, W, 3] to uint8 [H, W, 3].

    `exposure` multiplies the camera's own; `motion` is the horizontal smear in rendered pixels. The crop is
    resolved at `sensor.sharpness` of its size, gets noise and compression there, and is enlarged again, as a
    distant person's is.
    """
    height, width = light.shape[:2]
    native_height = max(16, round(height * sensor.sharpness))
    native_width = max(8, round(width * sensor.sharpness))
    small = _resampled(light, native_height, native_width, sensor.defocus, math.hypot(sensor.defocus, motion))
    display = _tone_table(sensor.gamma, sensor.haze)[_responded(small, sensor.matrix * (sensor.exposure * exposure))]
    grain = (*display.shape[:2], 1 if sensor.monochrome else 3)
    display += rng.standard_normal(grain, dtype=np.float32) * np.float32(sensor.noise)
    _compress(display, _DCT, _quantiser(round(sensor.quality)))
    enlarged = _resampled(display, height, width, 0.0, 0.0)
    return np.asarray(np.clip(enlarged * 255.0 + 0.5, 0, 255), dtype=np.uint8)


@lru_cache(maxsize=512)
def _weights(n_out: int, n_in: int, blur: float) -> tuple[npt.NDArray[np.int64], FloatImage]:
    """First source index [n_out] and weights [n_out, taps] to resample with a Gaussian blur (σ in input pixels)."""
    scale = n_in / n_out
    sigma = math.hypot(blur, 0.42 * max(1.0, scale))
    taps = min(n_in, 2 * math.ceil(2.2 * sigma) + 1)
    centres = (np.arange(n_out) + 0.5) * scale - 0.5
    starts = np.clip(np.rint(centres).astype(np.int64) - taps // 2, 0, n_in - taps)
    offsets = starts[:, None] + np.arange(taps) - centres[:, None]
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return starts, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _resampled(image: FloatImage, height: int, width: int, blur_y: float, blur_x: float) -> FloatImage:
    # Rounded so that many images share cached weights; a sixteenth of a pixel is invisible.
    starts_y, weights_y = _weights(height, image.shape[0], round(16 * blur_y) / 16)
    starts_x, weights_x = _weights(width, image.shape[1], round(16 * blur_x) / 16)
    return _resample(image, starts_y, weights_y, starts_x, weights_x)


@lru_cache(maxsize=256)
def _tone_table(gamma: float, haze: float) -> FloatImage:
    light = np.linspace(0.0, 1.0, _TONES)
    shoulder = (light + haze) / (1.0 + haze)
    curve = np.power(shoulder, 1.0 / gamma)
    contrast = curve + 0.06 * np.sin(2 * math.pi * (curve - 0.5))
    return np.asarray(contrast, dtype=np.float32)


_LUMA = np.array([[50, 56, 80, 130], [56, 70, 110, 190], [80, 110, 180, 260], [130, 190, 260, 380]], dtype=np.float64)


@lru_cache(maxsize=100)
def _quantiser(quality: int) -> FloatImage:
    """[2, 8, 8] steps for luma and chroma in display units; coarser for high frequencies and for colour."""
    factor = 50 / quality if quality < 50 else 2 - quality / 50
    steps = np.kron(_LUMA, np.ones((2, 2))) / 4.0 * max(factor, 0.05) / 255.0
    return np.stack([steps, 1.8 * steps]).astype(np.float32)


def _dct_matrix() -> FloatImage:
    k, n = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    matrix = np.sqrt(2 / 8) * np.cos((2 * n + 1) * k * math.pi / 16)
    matrix[0] /= math.sqrt(2)
    return np.asarray(matrix, dtype=np.float32)


_DCT = _dct_matrix()


@compiled
def _resample(
    image: FloatImage, starts_y: npt.NDArray[np.int64], weights_y: FloatImage, starts_x:
    npt.NDArray[np.int64], weights_x: FloatImage,
) -> FloatImage:  # fmt: skip
    width = image.shape[1]
    n_y, n_x = len(starts_y), len(starts_x)
    rows = np.zeros((n_y, width, 3), dtype=np.float32)
    for y in range(n_y):
        for k in range(weights_y.shape[1]):
            w, source = weights_y[y, k], starts_y[y] + k
            for x in range(width):
                for c in range(3):
                    rows[y, x, c] += w * image[source, x, c]
    out = np.zeros((n_y, n_x, 3), dtype=np.float32)
    for y in range(n_y):
        for x in range(n_x):
            for k in range(weights_x.shape[1]):
                w, source = weights_x[x, k], starts_x[x] + k
                for c in range(3):
                    out[y, x, c] += w * rows[y, source, c]
    return out


@compiled
def _responded(image: FloatImage, matrix: Array) -> npt.NDArray[np.int64]:
    """Tone-table indices of the colours after the camera's matrix."""
    height, width = image.shape[0], image.shape[1]
    out = np.empty((height, width, 3), dtype=np.int64)
    for y in range(height):
        for x in range(width):
            for c in range(3):
                value = 0.0
                for k in range(3):
                    value += matrix[c, k] * image[y, x, k]
                out[y, x, c] = int(min(1.0, max(0.0, value)) * (_TONES - 1))
    return out


@compiled
def _compress(image: FloatImage, dct: FloatImage, steps: FloatImage) -> None:
    """Quantise 8 × 8 blocks in luma and chroma, in place. Blocks at the far edges overlap the last ones."""
    height, width = image.shape[0], image.shape[1]
    block = np.empty((8, 8), dtype=np.float32)
    half = np.empty((8, 8), dtype=np.float32)
    for top in range(0, height, 8):
        y0 = min(top, height - 8)
        for left in range(0, width, 8):
            x0 = min(left, width - 8)
            for y in range(y0, y0 + 8):
                for x in range(x0, x0 + 8):
                    r, g, b = image[y, x, 0], image[y, x, 1], image[y, x, 2]
                    luma = 0.299 * r + 0.587 * g + 0.114 * b
                    image[y, x, 0], image[y, x, 1], image[y, x, 2] = luma, b - luma, r - luma
            for c in range(3):
                block[:, :] = image[y0 : y0 + 8, x0 : x0 + 8, c]
                _rotate(block, half, dct, True)
                for i in range(8):
                    for j in range(8):
                        step = steps[1 if c else 0, i, j]
                        block[i, j] = step * np.rint(block[i, j] / step)
                _rotate(block, half, dct, False)
                image[y0 : y0 + 8, x0 : x0 + 8, c] = block
            for y in range(y0, y0 + 8):
                for x in range(x0, x0 + 8):
                    luma, blue, red = image[y, x, 0], image[y, x, 1], image[y, x, 2]
                    image[y, x, 0], image[y, x, 2] = luma + red, luma + blue
                    image[y, x, 1] = luma - (0.299 * red + 0.114 * blue) / 0.587


@compiled
def _rotate(block: FloatImage, half: FloatImage, dct: FloatImage, forward: bool) -> None:
    """block ← D·block·Dᵀ, or Dᵀ·block·D backwards."""
    for i in range(8):
        for j in range(8):
            total = np.float32(0.0)
            for k in range(8):
                total += (dct[i, k] if forward else dct[k, i]) * block[k, j]
            half[i, j] = total
    for i in range(8):
        for j in range(8):
            total = np.float32(0.0)
            for k in range(8):
                total += half[i, k] * (dct[j, k] if forward else dct[k, j])
            block[i, j] = total
