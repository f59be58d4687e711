"""Features for corner cases: exact ties, duplicates, rows of zeros."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from reid_ray.types import FloatArray

MakeFeatures = Callable[[int, int], FloatArray]


def tied(n_rows: int, seed: int) -> FloatArray:
    """Four entries of ±1/2: norm 1, and dot products are quarters, exact in float32 in any order of sums."""
    rng = np.random.default_rng(seed)
    features = np.zeros((n_rows, 7), dtype=np.float32)
    for feature in features:
        feature[rng.choice(7, 4, replace=False)] = rng.choice([-0.5, 0.5], 4, p=[0.2, 0.8])
    return features


def clustered(n_rows: int, seed: int, *, per_cluster: int = 8, noise: float = 0.25) -> FloatArray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_rows // per_cluster + 1, 16))
    features = centres[rng.integers(len(centres), size=n_rows)] + noise * rng.normal(size=(n_rows, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float32)


def duplicates(n_rows: int, seed: int) -> FloatArray:
    """Rows sampled with replacement from a third as many."""
    rng = np.random.default_rng(seed)
    return tied(n_rows // 3 + 1, seed)[rng.integers(n_rows // 3 + 1, size=n_rows)]


def with_zeros(n_rows: int, seed: int) -> FloatArray:
    features = tied(n_rows, seed)
    features[np.random.default_rng(seed).random(n_rows) < 0.3] = 0
    return features


def all_one(n_rows: int, seed: int) -> FloatArray:
    """A collapsed network: the same feature for every image."""
    return np.repeat(tied(1, seed), n_rows, axis=0)


def all_zero(n_rows: int, seed: int) -> FloatArray:
    return np.zeros((n_rows, 7), dtype=np.float32)


EXACT = {maker.__name__: maker for maker in (tied, duplicates, with_zeros, all_one, all_zero)}


@pytest.fixture(params=[*EXACT, "clustered"])
def make_features(request: pytest.FixtureRequest) -> MakeFeatures:
    """`make_features(n_rows, seed)` → float32 [n_rows, D], of each kind."""
    return clustered if request.param == "clustered" else EXACT[request.param]


@pytest.fixture(params=EXACT)
def make_exact_features(request: pytest.FixtureRequest) -> MakeFeatures:
    """The kinds whose dot products are exact, so results are bitwise equal for any block size."""
    return EXACT[request.param]


@pytest.fixture
def make_clustered() -> Callable[..., FloatArray]:
    return clustered
