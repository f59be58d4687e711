"""A refresh on several workers gives the labels of one process, for every clusterer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pickling_executor import Elsewhere

from reid_ray.config import LabelsConfig
from reid_ray.labels import refresh
from reid_ray.labels.executor import split_rows
from reid_ray.labels.refresh import cluster_rows
from reid_ray.types import Features, FloatArray, Labels

pytestmark = pytest.mark.filterwarnings("error")


SETTINGS = {
    "spcl": LabelsConfig(k1=8, k2=3, eps=0.6, min_samples=3),
    "cvpr17": LabelsConfig(variant="cvpr17", k1=8, k2=3, eps=0.6, min_samples=3),
    "camera": LabelsConfig(variant="camera", k1=6, k2=2, k1_within=3, eps=0.6, min_samples=3),
    "rho": LabelsConfig(variant="cvpr17", k1=8, k2=3, rho=0.02, min_samples=3),
    "hdbscan": LabelsConfig(k1=8, k2=3, clusterer="hdbscan", min_samples=4),
    "kmeans": LabelsConfig(clusterer="kmeans", n_clusters=9),
    "singletons": LabelsConfig(k1=8, k2=3, eps=0.3, min_samples=4, outliers="singleton"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("n_workers", [1, 2, 4, 200])
def test_any_number_of_workers_gives_the_same_labels(
    make_features: Callable[..., FloatArray], setting: str, n_workers: int
) -> None:
    values = make_features(110, 3)
    camids = np.random.default_rng(0).integers(3, size=110)
    nothing = np.empty(0, dtype=np.int64)
    before = np.random.default_rng(1).integers(-1, 5, size=110)
    previous = Labels(1, before, values[:5], values[:0], nothing, nothing)
    features, config = Features(values, version=2), SETTINGS[setting]
    whole = refresh(features, config, camids, version=2, previous=previous, device="cpu")
    workers = Elsewhere(n_workers)
    shared = refresh(features, config, camids, version=2, previous=previous, device="cpu", workers=workers)
    assert shared.digest() == whole.digest()
    timeless = [
        {key: value for key, value in labels.statistics.items() if not key.endswith("_seconds")}
        for labels in (whole, shared)
    ]
    assert timeless[0] == timeless[1]
    if setting == "spcl":
        assert workers.calls.count("search_exactly") == workers.calls.count("graph_rows") == min(n_workers, 110)


def test_no_rows_at_all() -> None:
    nothing = np.empty((0, 4), dtype=np.float32)
    for workers in (None, Elsewhere(2)):
        labels = refresh(Features(nothing, 0), LabelsConfig(), np.empty(0, np.int64), version=0, workers=workers)
        assert labels.n_clusters == len(labels.labels) == 0


def test_ranges_cover_all_rows_in_order() -> None:
    for n_rows in (0, 1, 5, 12):
        for n_workers in (1, 3, 5, 40):
            cut = split_rows(n_rows, n_workers)
            assert [row for part in cut for row in part] == list(range(n_rows))
            assert 1 <= len(cut) <= n_workers
            assert max(map(len, cut)) - min(map(len, cut)) <= 1


def test_stages_are_announced_and_timed(make_clustered: Callable[..., FloatArray]) -> None:
    stages: list[str] = []
    features = make_clustered(60, 0)
    found = cluster_rows(features, SETTINGS["spcl"], np.zeros(60, np.int64), device="cpu", on_stage=stages.append)
    assert stages == list(found.seconds) == ["neighbours", "encoding", "graph", "clusters"]
    assert found.graph.shape == (60, 60)
    assert found.eps == 0.6
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_rho_takes_the_mean_of_the_closest_pairs(make_clustered: Callable[..., FloatArray]) -> None:
    """The graph is widened until it holds enough pairs."""
    features = make_clustered(80, 0)
    for rho in (0.001, 0.03, 0.1):
        config = LabelsConfig(variant="cvpr17", k1=8, k2=3, rho=rho, min_samples=3)
        found = cluster_rows(features, config, np.zeros(80, np.int64), device="cpu")
        upper = found.graph.toarray()[np.triu_indices(80, 1)]
        stored = np.sort(upper[upper > 0])
        n_pairs = 80 * 79 // 2 - int((found.graph.data == 0).sum() - 80) // 2
        assert found.eps == pytest.approx(stored[: round(rho * n_pairs)].mean(), rel=1e-6)


def test_rho_beyond_the_pairs_with_common_neighbours_averages_those_pairs() -> None:
    """As among few people far apart: a run does not end for it."""
    people = np.eye(20, dtype=np.float32).repeat(2, axis=0)
    people[1::2, :] += 0.1 * np.eye(20, dtype=np.float32)[:, ::-1]
    features = people / np.linalg.norm(people, axis=1, keepdims=True)
    config = LabelsConfig(variant="cvpr17", k1=1, k2=1, rho=0.1, min_samples=2)
    found = cluster_rows(features, config, np.zeros(40, np.int64), device="cpu")
    upper = found.graph.toarray()[np.triu_indices(40, 1)]
    assert 0 < (upper > 0).sum() < 0.1 * 40 * 39 / 2
    assert found.eps == pytest.approx(upper[upper > 0].mean(), rel=1e-6)
    assert sorted(np.bincount(found.labels + 1)[1:]) == [2] * 20
