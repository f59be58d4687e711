"""Choose the threshold of an index and store it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.io.lease import hold
from reid_ray.labels.features import read_rows
from reid_ray.labels.refresh import OnStage, cluster_rows
from reid_ray.search.index import Index
from reid_ray.search.manifest import LEASE, read_index_manifest
from reid_ray.search.threshold import Threshold, choose_threshold, chosen_rows
from reid_ray.types import FloatArray

MAX_CLUSTERED = 20_000
"""Maximum number of clustered images; a larger index is sampled at random."""


def threshold_of_labels(
    index: Index, dataset: Dataset, embed: Callable[[ImageTable, Dataset], FloatArray], *, false_accept: float
) -> Threshold:
    """Choose the threshold by pairs of the query and gallery images of a dataset, and write it into the index.

    Args:
        dataset: its query and gallery show people that the model was not trained on. Gallery images of people without a
            query are left out, because the distractors of Market-1501 and MARS have one pid and are not one person.
        embed: computes the features of a table by the model of the index.

    Raises:
        DataError: no identities in query and gallery, or too few pairs.
    """
    splits = np.array(dataset.table.arrow["split"].to_pylist())
    table = dataset.table.where((splits != "train") & (dataset.table.pids >= 0))
    queries = table.split("query").pids
    if len(queries):
        table = table.where(np.isin(table.pids, queries))
    if not len(table):
        raise DataError(
            f"{dataset.table.name} has no query and gallery images with identities, by which a threshold could be "
            f"chosen; pass other data, hold some out (data.holdout=0.2), or use --clusters."
        )
    table = table.take(chosen_rows(table.pids))
    features = embed(table, dataset)
    chosen = choose_threshold(
        features, table.pids, table.camids, false_accept=false_accept, origin="labels", data=dataset.table.name
    )
    return _written(index, chosen)


def threshold_of_clusters(
    index: Index, *, false_accept: float, seed: int = 0, on_stage: OnStage | None = None
) -> Threshold:
    """Choose the threshold by clusters of the indexed images, without labels, and write it into the index.

    Raises:
        DataError: too few clusters for the rate.
    """
    rows = np.arange(len(index))
    if len(rows) > MAX_CLUSTERED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_CLUSTERED, replace=False))
    features = read_rows(index.features, rows)
    camids = np.asarray(index.table["camid"].to_numpy(), dtype=np.int64)[rows]
    labels = cluster_rows(features, index.run.config.labels, camids, on_stage=on_stage).labels
    chosen = choose_threshold(
        features, labels, camids, false_accept=false_accept, origin="clusters", data=str(index.path)
    )
    return _written(index, chosen)


def _written(index: Index, threshold: Threshold) -> Threshold:
    with hold(index.path / LEASE, f"writing into {index.path}"):
        replace(read_index_manifest(index.path), threshold=threshold).write(index.path)
    return threshold
