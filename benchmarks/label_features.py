"""Features that cluster like those of a network in training, in any number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

MIXED_NOISE = 0.3


def make_features(n_rows: int, dim: int, seed: int = 0) -> Floats:
    """Features float32 [N, D] that cluster about as badly as those of a network in training do on Market-1501.

    Persons have log-normal numbers of images (2 to 72, 17 on average) from one to four of six cameras. A feature is the
    sum of the common mean, a person's centre, offsets of the camera and of the person under that camera, and noise;
    except for the noise, the terms span mostly a few dozen dimensions.
    """
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.lognormal(2.65, 0.7, size=n_rows // 8 + 8).astype(np.int64), 2, 72)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), n_rows) + 1]
    persons = np.repeat(np.arange(len(sizes)), sizes)[:n_rows]
    cameras = (persons * 5 + rng.integers(0, 1 + persons % 4)) % 6
    spread = np.sqrt((np.arange(dim) + 15.0) ** -1.6)
    spread = (spread / np.linalg.norm(spread)).astype(np.float32)
    mean = 0.13 * rng.standard_normal(dim, dtype=np.float32) / np.sqrt(dim, dtype=np.float32)
    of_camera = 0.25 * spread * rng.standard_normal((6, dim), dtype=np.float32)
    of_person = 0.70 * spread * rng.standard_normal((len(sizes), dim), dtype=np.float32)
    under_camera = 0.40 * spread * rng.standard_normal((6 * len(sizes), dim), dtype=np.float32)
    features = np.empty((n_rows, dim), dtype=np.float32)
    order = rng.permutation(n_rows)
    for start in range(0, n_rows, 4096):
        rows = order[start : start + 4096]
        noise = rng.standard_normal((len(rows), dim), dtype=np.float32)
        block = mean + of_person[persons[rows]] + of_camera[cameras[rows]]
        block += under_camera[persons[rows] * 6 + cameras[rows]] + spread * noise
        features[start : start + 4096] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return features


def multiply(features: Floats, n_rows: int, seed: int = 0) -> Floats:
    """Extend features to `n_rows` by copies, each with new persons and slightly more noise.

    A copy is rotated about the common mean (its dimensions are permuted and change sign), which preserves similarities
    within the copy and makes its persons unrelated to all others; noise makes copies differ.
    """
    rng = np.random.default_rng(seed)
    n_real, dim = features.shape
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    parts = [features[:n_rows]]
    for start in range(n_real, n_rows, n_real):
        copied = features[: n_rows - start] - mean
        copied = copied[:, rng.permutation(dim)] * rng.choice(np.array([-1, 1], dtype=np.float32), dim)
        copied += MIXED_NOISE / np.sqrt(dim, dtype=np.float32) * rng.standard_normal(copied.shape, dtype=np.float32)
        copied += mean
        copied /= np.linalg.norm(copied, axis=1, keepdims=True)
        parts.append(copied)
    return np.concatenate(parts) if len(parts) > 1 else parts[0]
