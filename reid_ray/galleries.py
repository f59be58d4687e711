"""Cluster galleries of labelled features and of runs: scores by the label engine, pages by `reports.gallery`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.sparse import csr_array

from reid_ray.data.images import FileImages
from reid_ray.data.table import ImageTable
from reid_ray.io.paths import Location
from reid_ray.labels.asking import ASKED_DISTANCE, N_QUESTIONS, Question, questions, typical_rows
from reid_ray.labels.clustering import close_gaps
from reid_ray.labels.refresh import ClusteringResult, cluster_rows
from reid_ray.reports.gallery import Pair, Scores, write_gallery
from reid_ray.reports.run_report import SIMILARITIES_NAME
from reid_ray.reports.similarities import draw_similarities
from reid_ray.run import Run
from reid_ray.types import OUTLIER, FloatArray, IntArray

GALLERY_FOLDER = "gallery"


def cluster_scores(graph: csr_array, labels: IntArray, asked: Sequence[Question]) -> Scores:
    """Medoids, mixed clusters and questions, for the gallery.

    Args:
        graph: pairs up to `ASKED_DISTANCE`.
        labels: int64 [N], without the singletons of an outlier policy.
        asked: questions, most valuable first.
    """
    medoids, halves = typical_rows(graph, labels)
    pairs = [Pair(question.row, question.other, question.kind, round(question.probability, 4)) for question in asked]
    return Scores(medoids, {int(labels[half.row]): 1 - half.probability for half in halves}, pairs)


def without_singles(labels: IntArray) -> IntArray:
    """Labels in which clusters of one image, as the outlier policy `singleton` makes them, are outliers."""
    clustered = labels != OUTLIER
    sizes = np.bincount(labels[clustered], minlength=1)
    single = clustered & (sizes[np.where(clustered, labels, 0)] == 1)
    return close_gaps(np.where(single, OUTLIER, labels))


def gallery_of_labels(out: Location, table: ImageTable, found: ClusteringResult, asked: Sequence[Question]) -> Location:
    """The gallery of clusters of features, whose images are files.

    Args:
        found: labels, and the graph of pairs up to `ASKED_DISTANCE`.
        asked: questions, most valuable first.

    Raises:
        DataError: no image can be read.
    """
    scores = cluster_scores(found.graph, found.raw, asked)
    return write_gallery(out, table, found.raw, FileImages(), title=f"Clusters of {out.name}", scores=scores)


def gallery_of_run(
    run: Run,
    features: FloatArray | None = None,
    out: Location | None = None,
    *,
    on_images: Callable[[int], None] | None = None,
) -> Location:
    """The gallery of a run's last labels, `gallery/index.html` in its directory.

    Args:
        features: float32 [N, D] of the training images, for scores, questions and the histograms of similarities in
            the run's directory; None leaves them out.

    Raises:
        RunError: the run has no labels yet.
    """
    dataset, config = run.dataset, run.config
    table, file = dataset.train, run.labels()
    labels = without_singles(file["label"].to_numpy())
    scores = None
    if features is not None:
        groups = {"Pairs by label": labels} | ({"Pairs by identity": table.pids} if table.has_pids else {})
        draw_similarities(features, groups, run.path / SIMILARITIES_NAME)
    if features is not None and config.labels.clusterer == "dbscan" and config.labels.rho is None:
        graph = cluster_rows(features, config.labels, table.camids, max_distance=ASKED_DISTANCE).graph
        scores = cluster_scores(graph, labels, questions(graph, labels, N_QUESTIONS))
    return write_gallery(
        out or run.path / GALLERY_FOLDER,
        table,
        labels,
        dataset.images,
        title=f"Clusters of {config.name}",
        subtitle="Labels of the last epoch",
        scores=scores,
        aspect=config.data.width / config.data.height,
        on_images=on_images,
    )
