"""Clusters of tracklets: each frame gets the label of its tracklet, against a loop over tracklets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import METHOD_RUNS

from reid_ray.api import train
from reid_ray.data.table import ImageTable
from reid_ray.errors import DegenerateLabelsError
from reid_ray.labels.quality import ground_truth_scores
from reid_ray.labels.refresh import refresh
from reid_ray.methods import stages_of
from reid_ray.training.services import MEMORY, LabelRequest, label_streams
from reid_ray.types import Features, Labels

CPU = torch.device("cpu")
SIZES = (3, 1, 5, 2, 4, 1, 2, 6, 3, 3)
"""Frames of ten tracklets: of five people, one by each of two cameras."""


@pytest.fixture
def table():
    """Frames of the tracklets, mixed up; two of them in no tracklet."""
    tracklets = np.repeat(np.arange(10), SIZES)
    pids, camids = tracklets // 2, tracklets % 2
    order = np.random.default_rng(0).permutation(len(tracklets))
    numbers = np.where((tracklets == 1) | (tracklets == 5), -1, tracklets + 100)
    return ImageTable.from_columns(
        path=[f"{i}.jpg" for i in range(len(order))],
        pid=pids[order],
        camid=camids[order],
        extra={"tracklet": numbers[order]},
    )


@pytest.fixture
def features(table):
    rng = np.random.default_rng(1)
    people = rng.normal(size=(5, 16))
    values = people[table.pids] + 0.3 * rng.normal(size=(len(table), 16))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def tracklets_of(table):
    """Lists of rows, by first appearance; a frame in no tracklet is one."""
    found = {}
    for row, tracklet in enumerate(table.tracklets.tolist()):
        found.setdefault(("alone", row) if tracklet == -1 else tracklet, []).append(row)
    return list(found.values())


def expected_labels(features, table, config, previous=None):
    groups = tracklets_of(table)
    means = np.stack([features[rows].mean(axis=0) for rows in groups])
    means = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    first = [rows[0] for rows in groups]
    before = None if previous is None else replace(previous, labels=previous.labels[first])
    found = refresh(
        Features(means, 3), config, table.camids[first], version=3, true_pids=table.pids[first], previous=before
    )
    labels = np.empty(len(table), dtype=np.int64)
    for label, rows in zip(found.labels, groups, strict=True):
        labels[rows] = label
    return replace(found, labels=labels)


def request_of(config, previous=None, memory=None):
    return LabelRequest(stages_of(config)[-1], ("train",), 3, previous or {}, memory)


@pytest.mark.parametrize("outliers", ["drop", "singleton"])
def test_frames_have_the_labels_of_their_tracklets(tiny, table, features, outliers):
    settings = "labels={unit: tracklet, k1: 4, k2: 1, eps: 0.5, min_samples: 2}"
    config = tiny("method={name: ice}", settings, f"labels.outliers={outliers}")
    found = label_streams(request_of(config), {"data": features}, {"data": table}, config, CPU)["train"]
    expected = expected_labels(features, table, config.labels)
    assert found.n_clusters >= 2
    assert np.array_equal(found.labels, expected.labels)
    for name in ("centroids", "proxies"):
        assert np.allclose(getattr(found, name), getattr(expected, name), atol=1e-6), name
    assert np.array_equal(found.proxy_labels, expected.proxy_labels)
    assert found.statistics["n_images"] == len(SIZES)
    assert found.statistics["n_frames"] == len(table)
    assert found.statistics["frame_ari"] == ground_truth_scores(found.labels, table.pids)["ari"]
    request = request_of(config, {"train": found})
    again = label_streams(request, {"data": features}, {"data": table}, config, CPU)["train"]
    expected = expected_labels(features, table, config.labels, found).statistics
    changes = {key: value for key, value in expected.items() if key not in found.statistics}
    assert changes, "how far the labels are those before"
    assert {key: again.statistics[key] for key in changes} == pytest.approx(changes)


def test_features_that_a_method_keeps_are_pooled_too(tiny, table, features):
    settings = "labels={unit: tracklet, k1: 4, k2: 1, eps: 0.5, min_samples: 2}"
    config = tiny("method={name: spcl}", settings)
    request = request_of(config, memory=features)
    found = label_streams(request, {MEMORY: features}, {"data": table}, config, CPU)["train"]
    assert np.array_equal(found.labels, expected_labels(features, table, config.labels).labels)


def test_images_are_clustered_by_default(tiny, table, features):
    config = tiny("method={name: ice}", "labels={k1: 4, k2: 1, eps: 0.5, min_samples: 2}")
    found = label_streams(request_of(config), {"data": features}, {"data": table}, config, CPU)["train"]
    known = Features(features, 3)
    expected = refresh(known, config.labels, table.camids, version=3, true_pids=table.pids)
    assert found.digest() == expected.digest()


def test_no_cluster_is_a_result(tiny, table, features):
    config = tiny("labels={unit: tracklet, k1: 4, k2: 1, eps: 0.01, min_samples: 8}")
    found = label_streams(request_of(config), {"data": features}, {"data": table}, config, CPU)["train"]
    assert isinstance(found, Labels)
    assert found.n_clusters == 0
    assert (found.labels == -1).all()
    assert len(found.labels) == len(table)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spcl", "cap", "cluster_contrast", "mmt"])
def test_methods_without_labels_train_on_tracklets(tiny, method):
    run = train(tiny(*METHOD_RUNS[method], *METHOD_RUNS["ice-tracklets"]))
    refreshes = run.metrics("refresh")
    assert [event["n_frames"] for event in refreshes] == [len(run.dataset.train)] * 2
    labels, tracklets = run.labels()["label"].to_numpy(), run.dataset.train.tracklets
    for tracklet in np.unique(tracklets):
        assert len(set(labels[tracklets == tracklet].tolist())) == 1


def test_degenerate_clusters_of_tracklets_end_the_run_in_one_line(tiny):
    with pytest.raises(DegenerateLabelsError, match="The first clustering gave 0 clusters"):
        train(tiny(*METHOD_RUNS["ice-tracklets"], "labels.eps=0.01", "labels.min_samples=30"))
