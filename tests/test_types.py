"""The digest of labels covers everything that training reads."""

from dataclasses import replace

import numpy as np
import pytest

from reid_ray.types import Labels

LABELS = Labels(
    version=3,
    labels=np.array([0, 1, -1]),
    centroids=np.eye(2, dtype=np.float32),
    proxies=np.eye(2, dtype=np.float32),
    proxy_labels=np.array([0, 1]),
    proxy_camids=np.array([5, 5]),
    statistics={"label_seconds": 1.0},
    features=np.eye(3, 2, dtype=np.float32),
)


@pytest.mark.parametrize("name", ["labels", "centroids", "proxies", "proxy_labels", "proxy_camids", "features"])
def test_digest_changes_with_any_value(name):
    array = getattr(LABELS, name).copy()
    array.flat[0] += 1
    assert replace(LABELS, **{name: array}).digest() != LABELS.digest()


def test_digest_depends_on_the_epoch_and_not_on_timings():
    assert replace(LABELS, version=4).digest() != LABELS.digest()
    assert replace(LABELS, statistics={"label_seconds": 2.0}).digest() == LABELS.digest()


def test_labels_without_features_have_empty_arrays():
    """Ground truth that needs nothing else takes no pass over the images."""
    known = Labels(0, np.array([1, 0, -1]))
    assert known.n_clusters == 2
    assert known.centroids.shape == known.proxies.shape == (0, 0)
    assert known.proxy_labels.shape == known.proxy_camids.shape == (0,)
    assert known.features is None
    assert known.digest() == Labels(0, np.array([1, 0, -1])).digest()
    assert known.digest() != replace(LABELS, version=0, labels=known.labels).digest()
    assert Labels(0, np.array([], dtype=np.int64)).n_clusters == 0
