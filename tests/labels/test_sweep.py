"""A sweep gives the result of a refresh for each setting, and ranges are parsed as documented."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from reid_ray.errors import ConfigError, DataError
from reid_ray.labels import sweep as module
from reid_ray.labels.clustering import dbscan
from reid_ray.labels.encoding import JaccardParams
from reid_ray.labels.jaccard import jaccard_graph
from reid_ray.labels.label_free import label_free_scores
from reid_ray.labels.objective import label_free_objective, reference_graphs
from reid_ray.labels.quality import ground_truth_scores
from reid_ray.labels.sweep import Setting, parse_grid, sweep
from reid_ray.types import UNKNOWN, FloatArray, IntArray

SETTINGS = [
    Setting("spcl", 9, 3, eps=0.4, min_samples=2),
    Setting("spcl", 9, 1, eps=0.6, min_samples=3),
    Setting("cvpr17", 7, 3, eps=0.5, min_samples=2),
    Setting("spcl", 30, 6, eps=0.55),
    Setting("cvpr17", 13, 2, eps=0.6, min_samples=4),
    Setting("camera", 6, 3, 3, 2, eps=0.45, min_samples=2),
    Setting("camera", 6, 1, 3, 2, eps=0.6, min_samples=2),
    Setting("camera", 4, 2, 8, 4, eps=0.3, min_samples=1),
    Setting("spcl", 9, 3, eps=0.6, min_samples=2),
]


def rows_of(n_rows: int, seed: int) -> tuple[IntArray, IntArray, IntArray]:
    """Cameras, identities and previous labels, some unknown."""
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 3, n_rows), rng.integers(-1, n_rows // 8, n_rows), rng.integers(-1, n_rows // 8, n_rows)


def alone(
    features: FloatArray, setting: Setting, camids: IntArray, pids: IntArray, previous: IntArray
) -> dict[str, Any]:
    """One setting, computed from scratch."""
    graph = jaccard_graph(
        features,
        k1=setting.k1,
        k2=setting.k2,
        k1_within=setting.k1_within,
        k2_within=setting.k2_within,
        max_distance=setting.eps,
        variant=setting.variant,
        camids=camids,
        device="cpu",
    )
    labels = dbscan(graph, eps=setting.eps, min_samples=setting.min_samples)
    counts = {"n_clusters": int(labels.max(initial=-1)) + 1, "n_outliers": int((labels == -1).sum())}
    references = reference_graphs(features, "cpu")
    scores = {"label_free": label_free_objective(labels, references)}
    scores |= label_free_scores(labels, references[0], camids, previous)
    return counts | scores | ground_truth_scores(labels, pids)


@pytest.mark.parametrize("n_rows", [1, 5, 90])
def test_each_setting_equals_a_separate_run(make_features: Callable[..., FloatArray], n_rows: int) -> None:
    features = make_features(n_rows, 3)
    camids, pids, previous = rows_of(n_rows, 3) if n_rows >= 8 else (np.zeros(n_rows, dtype=np.int64),) * 3
    results = sweep(features, SETTINGS, camids, previous, pids, device="cpu")
    assert len(results) == len(SETTINGS)
    for setting, result in zip(SETTINGS, results, strict=True):
        assert {name: result[name] for name in vars(setting)} == vars(setting)
        for key, value in alone(features, setting, camids, pids, previous).items():
            assert result[key] == value, (setting, key)


def test_labels_do_not_depend_on_the_other_settings(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(160, 0)
    wide = sweep(features, [Setting(k1=k1, eps=0.8) for k1 in (5, 12, 40)] + [Setting(k1=8, eps=0.4)], device="cpu")[-1]
    single = sweep(features, [Setting(k1=8, eps=0.4)], device="cpu")[0]
    assert single["n_clusters"] == wide["n_clusters"] > 5
    assert single["n_outliers"] == wide["n_outliers"]


def test_work_is_shared(make_clustered: Callable[..., FloatArray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two searches (one by camera), an encoding per k-reciprocal setting, and a graph per encoding."""
    calls: list[str] = []

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return function(*arguments, **options)

        return call

    for name in ("nearest", "nearest_by_camera", "reciprocal_weights", "graph_of_weights", "dbscan"):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    grid = ["variant=spcl,camera", "k1=6,9", "k2=1,3", "eps=.4:.6:.1", "min_samples=2,4"]
    sweep(make_clustered(60, 1), parse_grid(grid), rows_of(60, 1)[0], device="cpu")
    assert {name: calls.count(name) for name in calls} == {
        "nearest": 1,
        "nearest_by_camera": 1,
        "reciprocal_weights": 4,
        "graph_of_weights": 8,
        "dbscan": 48,
    }


def test_reports_each_setting_once(make_clustered: Callable[..., FloatArray]) -> None:
    seen: list[dict[str, Any]] = []
    settings = parse_grid(["k1=9,5,9", "eps=.6,.4"])
    results = sweep(make_clustered(60, 1), settings, device="cpu", on_setting=seen.append)
    assert sorted(map(id, seen)) == sorted(map(id, results))
    assert [(result["k1"], result["eps"]) for result in results] == [(s.k1, s.eps) for s in settings]


def test_scores_need_what_they_compare_with(make_clustered: Callable[..., FloatArray]) -> None:
    features = make_clustered(60, 1)
    unknown = np.full(60, UNKNOWN)
    plain = sweep(features, [Setting(k1=8)], device="cpu")[0]
    assert sweep(features, [Setting(k1=8)], unknown, pids=unknown, device="cpu")[0].keys() == plain.keys()
    assert "silhouette" in plain
    assert not {"ari", "camera_mix", "stability"} & plain.keys()


def test_no_settings(make_clustered: Callable[..., FloatArray]) -> None:
    assert sweep(make_clustered(60, 1), []) == []
    empty = sweep(np.empty((0, 4), dtype=np.float32), [Setting()], device="cpu")
    assert empty[0]["n_clusters"] == 0


def test_camera_variant_needs_camids(make_clustered: Callable[..., FloatArray]) -> None:
    with pytest.raises(ConfigError, match="camids"):
        sweep(make_clustered(20, 0), [Setting("camera")])


def test_features_are_checked() -> None:
    with pytest.raises(DataError, match="norm"):
        sweep(np.ones((20, 4), dtype=np.float32), [Setting()])


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("eps=.4:.7:.05", "eps", [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7]),
        ("eps=0.1:0.3:0.1", "eps", [0.1, 0.2, 0.3]),
        ("eps=0.4:0.5:0.03", "eps", [0.4, 0.43, 0.46, 0.49]),
        ("eps=.5:.5:.1", "eps", [0.5]),
        ("eps=0.6", "eps", [0.6]),
        ("labels.k1=20,30", "k1", [20, 30]),
        ("k1=10:30:10,50", "k1", [10, 20, 30, 50]),
        ("min_samples=2:4:1", "min_samples", [2, 3, 4]),
        ("variant=spcl,cvpr17", "variant", ["spcl", "cvpr17"]),
    ],
)
def test_ranges(text: str, name: str, values: list[Any]) -> None:
    found = [getattr(setting, name) for setting in parse_grid([text])]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_ranges_make_a_grid() -> None:
    settings = parse_grid(["k1=20,30", "eps=.4,.5"], Setting(k2=3, min_samples=2))
    assert [(s.k1, s.eps) for s in settings] == [(20, 0.4), (20, 0.5), (30, 0.4), (30, 0.5)]
    assert all((s.k2, s.min_samples) == (3, 2) for s in settings)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["eps"], "NAME=VALUES"),
        (["epsilon=.4"], "NAME=VALUES"),
        (["eps=.4:.7"], "neither a number nor a range"),
        (["eps=.4:.7:.1:.1"], "neither a number nor a range"),
        (["eps=a"], "neither a number nor a range"),
        (["eps="], "neither a number nor a range"),
        (["eps=nan"], "neither a number nor a range"),
        (["eps=.4:inf:.1"], "neither a number nor a range"),
        (["eps=.4:.7:0"], "does not increase"),
        (["eps=.7:.4:.1"], "does not increase"),
        (["eps=.7:.4:-.1"], "does not increase"),
        (["k1=2.5"], "whole number"),
        (["k1=10:20:2.5"], "whole number"),
        (["eps=.1,.2", "eps=.3"], "twice"),
        (["eps=1.5"], "eps must be between 0 and 1"),
        (["eps=0:.5:.1"], "eps must be between 0 and 1"),
        (["min_samples=0"], "at least 1"),
        (["k1=0"], "at least 1"),
        (["variant=jaccard"], "Unknown Jaccard variant"),
        (["eps=0:1:1e-30"], "more than 10,000 values"),
        (["eps=.0001:.9:.0001", "k1=1:100:1"], "900,000 settings"),
    ],
)
def test_invalid_ranges_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_grid(texts)


def test_settings_share_an_encoding_where_the_variant_does_not_read_the_difference() -> None:
    assert Setting("spcl", k1_within=9).params == Setting("spcl").params == JaccardParams("spcl")
    assert Setting("camera", k1_within=9).params != Setting("camera").params
