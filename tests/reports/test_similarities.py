"""Histograms of similarities against a loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reid_ray.reports.similarities import BINS, draw_similarities, similarity_counts


@pytest.mark.parametrize("n_rows", [0, 1, 30])
def test_counts_equal_a_loop(n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    features = rng.normal(size=(n_rows, 5)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    groups = rng.integers(-1, 4, n_rows)
    values: dict[bool, list[float]] = {True: [], False: []}
    for i in range(n_rows):
        for j in range(i + 1, n_rows):
            if groups[i] >= 0 and groups[j] >= 0:
                values[bool(groups[i] == groups[j])].append(float(features[i] @ features[j]))
    for found, expected in zip(similarity_counts(features, groups), (values[True], values[False]), strict=True):
        np.testing.assert_array_equal(found, np.histogram(expected, BINS)[0])


def test_drawing(tmp_path: Path) -> None:
    features = np.eye(6, dtype=np.float32)
    out = draw_similarities(features, {"labels": np.arange(6) % 2, "nothing": np.full(6, -1)}, tmp_path / "s.png")
    assert out.stat().st_size > 1000
