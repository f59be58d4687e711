"""From a table to numbers: what of it can be evaluated, and the evaluation itself.

A protocol is a pure function of query features, gallery features and the table, found by name in `PROTOCOLS`. The one
here is the single-query protocol of `ranking`; one that draws galleries (CUHK03 single-shot, SYSU-MM01) calls
`rank_metrics` on rows that it has drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.evaluation.arguments import Array
from reid_ray.evaluation.ranking import (
    APForm,
    DistanceBlocks,
    RankMetrics,
    rank_metrics,
    rank_metrics_of_distances,
)
from reid_ray.types import UNKNOWN, IntArray


@dataclass(frozen=True)
class EvaluationProtocol:
    """Who is compared with whom, and which number decides.

    Attributes:
        evaluate: query features [Q, D], gallery features [G, D], table and form of the average precision → numbers for
            the log.
        evaluable: table → None, or one sentence that says why it cannot be evaluated.
        primary: the metric by which the best model is kept.
    """

    evaluate: Callable[[Array, Array, ImageTable, APForm], dict[str, float | int]]
    evaluable: Callable[[ImageTable], str | None]
    primary: str


def evaluate_table(
    q_features: Array, g_features: Array, table: ImageTable, *, ap: APForm = "mean", chunk: int = 256
) -> RankMetrics:
    """Evaluate features of a table's query and gallery splits, rows in the order of `table.split(...)`.

    Args:
        q_features: [Q, D] L2-normalised.
        g_features: [G, D] L2-normalised.
        table: with splits `query` and `gallery`; other rows are ignored.
        ap: as in `rank_metrics`.
        chunk: as in `rank_metrics`.

    Raises:
        DataError: the table cannot be evaluated (the sentence of `evaluable`), or features that do not fit
            it.
    """
    return rank_metrics(q_features, g_features, *_ids(table), ap=ap, chunk=chunk)


def evaluate_distances(blocks: DistanceBlocks, table: ImageTable, *, ap: APForm = "mean") -> RankMetrics:
    """The same from distances, such as re-ranked ones.

    Args:
        blocks: rows of the query split, in order, each with their distances [rows, G] to the gallery split.
        table, ap: as in `evaluate_table`.

    Raises:
        DataError: the table cannot be evaluated (the sentence of `evaluable`), or distances are not finite.
        ValueError: blocks that do not fit the table.
    """
    return rank_metrics_of_distances(blocks, *_ids(table), ap=ap)


def evaluable(table: ImageTable) -> str | None:
    """None where `evaluate_table` will give numbers, else one sentence that says why it will not.

    To be asked before features are extracted: it only reads the table.
    """
    query, gallery = table.split("query"), table.split("gallery")
    if len(query) == 0 and len(gallery) == 0:
        return f"{table.name} cannot be evaluated: it has no query and no gallery split."
    if len(query) == 0:
        return f"{table.name} cannot be evaluated: it has a gallery but no query split."
    if len(gallery) == 0:
        return f"{table.name} cannot be evaluated: it has a query but no gallery split."
    for side, name in ((query, "query"), (gallery, "gallery")):
        if not side.has_pids:
            return f"{table.name} cannot be evaluated: the identities of its {name} images are not known."
    if not _has_valid_match(query, gallery):
        return f"{table.name} cannot be evaluated: the gallery holds no image of a query's identity by another camera."
    return None


def camera_note(table: ImageTable) -> str | None:
    """One sentence to print with the numbers where cameras are missing and less is removed, else None."""
    missing = sum(int((table.split(name).camids == UNKNOWN).sum()) for name in ("query", "gallery"))
    if not missing:
        return None
    n_images = len(table.split("query")) + len(table.split("gallery"))
    which = "has no cameras" if missing == n_images else f"has {missing} of {n_images} images without a camera"
    return f"{table.name} {which}: same-camera matches are not removed for them, so numbers come out higher."


def _ids(table: ImageTable) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """pids of query and gallery, then camids."""
    reason = evaluable(table)
    if reason is not None:
        raise DataError(reason)
    query, gallery = table.split("query"), table.split("gallery")
    return query.pids, gallery.pids, query.camids, gallery.camids


def _has_valid_match(query: ImageTable, gallery: ImageTable) -> bool:
    per_pid = Counter(gallery.pids.tolist())
    per_pid_and_camera = Counter(zip(gallery.pids.tolist(), gallery.camids.tolist(), strict=True))
    for pid, camid in set(zip(query.pids.tolist(), query.camids.tolist(), strict=True)):
        n_removed = 0 if camid == UNKNOWN else per_pid_and_camera[pid, camid]
        if pid != UNKNOWN and per_pid[pid] > n_removed:
            return True
    return False


def _single_query(q_features: Array, g_features: Array, table: ImageTable, ap: APForm) -> dict[str, float | int]:
    return evaluate_table(q_features, g_features, table, ap=ap).as_dict()


PROTOCOLS: dict[str, EvaluationProtocol] = {"single_query": EvaluationProtocol(_single_query, evaluable, "mAP")}
"""By the name of `evaluation.protocol`."""
