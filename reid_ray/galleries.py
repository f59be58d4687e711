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
from reid_ray.training.corrections import run_constraints
from reid_ray.training.datasets import MAIN
from reid_ray.types import OUTLIER, FloatArray, IntArray

GALLERY_FOLDER = "gallery"
N_SHOWN = 6
"""Images on each side of a question."""


def cluster_scores(graph: csr_array, labels: IntArray, asked: Sequence[Question]) -> Scores:
    """Medoids, mixed clusters and questions, for the gallery.

    Args:
        graph: pairs up to `ASKED_DISTANCE`.
        labels: int64 [N], without the singletons of an outlier policy.
        asked: questions, most valuable first.
    """
    medoids, halves = typical_rows(graph, labels)
    pairs = [
        Pair(*question[:3], round(question.probability, 4), *neighbours_of(graph, labels, question))
        for question in asked
    ]
    return Scores(medoids, {int(labels[half.row]): 1 - half.probability for half in halves}, pairs)


def neighbours_of(graph: csr_array, labels: IntArray, question: Question) -> tuple[list[int], list[int]]:
    """For each image of a question, it and the images of its cluster that are nearest to it, nearest first.

    Images that are nearer to the other image are left out, at most `N_SHOWN` are returned.
    """
    ends = (question.row, question.other)
    near: list[dict[int, float]] = []
    for row in ends:
        entries = slice(graph.indptr[row], graph.indptr[row + 1])
        near.append(dict(zip(graph.indices[entries].tolist(), graph.data[entries].tolist(), strict=True)))
    sides = []
    for row, own, other in zip(ends, near, reversed(near), strict=True):
        shown = [
            (distance, at)
            for at, distance in own.items()
            if at not in ends and labels[at] == labels[row] != OUTLIER and distance <= other.get(at, 1)
        ]
        sides.append([row, *(at for _, at in sorted(shown)[: N_SHOWN - 1])])
    return sides[0], sides[1]


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
    epoch: int | None = None,
    on_images: Callable[[int], None] | None = None,
) -> Location:
    """The gallery of a run's labels: `gallery/index.html` in its directory, or `gallery-epoch-EEE/index.html`.

    Args:
        epoch: whose labels, from 1; default the last. Features and scores are those of the caller's model all the same.
        features: float32 [N, D] of the training images, for scores, questions and the histograms of similarities in
            the run's directory; None leaves them out.

    Raises:
        RunError: the run has no labels yet.
    """
    dataset, config = run.dataset, run.config
    table, file = dataset.train, run.labels(-1 if epoch is None else epoch - 1)
    labels = without_singles(file["label"].to_numpy())
    scores = None
    if features is not None:
        groups = {"Pairs by label": labels} | ({"Pairs by identity": table.pids} if table.has_pids else {})
        draw_similarities(features, groups, run.path / SIMILARITIES_NAME)
    if features is not None and config.labels.clusterer == "dbscan" and config.labels.rho is None:
        graph = cluster_rows(features, config.labels, table.camids, max_distance=ASKED_DISTANCE).graph
        known = run_constraints(config, {MAIN: table}) if config.labels.unit == "image" else None
        scores = cluster_scores(graph, labels, questions(graph, labels, N_QUESTIONS, known))
    folder = GALLERY_FOLDER if epoch is None else f"{GALLERY_FOLDER}-epoch-{epoch:03d}"
    return write_gallery(
        out or run.path / folder,
        table,
        labels,
        dataset.images,
        title=f"Clusters of {config.name}",
        subtitle="Labels of the last epoch" if epoch is None else f"Labels of epoch {epoch}",
        scores=scores,
        aspect=config.data.width / config.data.height,
        on_images=on_images,
    )
