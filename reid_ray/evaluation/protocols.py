"""Evaluation protocols of a table: whether it can be evaluated, and the metrics.

A protocol is a pure function of query features, gallery features, the table and the settings of `evaluation`,
registered by name in `PROTOCOLS`. This module has the single-query protocol of `ranking`; `trials` has the visible–
infrared protocols, `mars` the one for tracklets. `camera_cycles` needs no identities and judges training images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reid_ray.config import EvaluationConfig
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.evaluation.arguments import Array
from reid_ray.evaluation.mars import mars, mars_evaluable
from reid_ray.evaluation.ranking import (
    APForm,
    DistanceBlocks,
    RankMetrics,
    rank_metrics,
    rank_metrics_of_distances,
)
from reid_ray.evaluation.tables import has_valid_match, missing_part
from reid_ray.evaluation.trials import (
    evaluate_regdb,
    evaluate_sysu_mm01,
    read_sysu_permutations,
    regdb_evaluable,
    sysu_evaluable,
)
from reid_ray.io.paths import as_path
from reid_ray.labels.camera_cycles import cycle_consistency
from reid_ray.types import UNKNOWN, IntArray

Metrics = dict[str, float | int]


@dataclass(frozen=True)
class EvaluationProtocol:
    """An evaluation protocol and its primary metric.

    Attributes:
        evaluate: query features [Q, D], gallery features [G, D], table, settings → numbers for the log.
        evaluable: table, settings → None, or a one-line reason why it cannot be evaluated.
        primary: the metric that selects the best model.
        split: the rows that it judges; those of the training split are its gallery.
        unit: compared items: images or tracklets. With tracklets, features and table given to `evaluate` have
            one row per tracklet; `evaluable` always reads the image table.
    """

    evaluate: Callable[[Array, Array, ImageTable, EvaluationConfig], Metrics]
    evaluable: Callable[[ImageTable, EvaluationConfig], str | None]
    primary: str = "mAP"
    split: Literal["query and gallery", "train"] = "query and gallery"
    unit: Literal["image", "tracklet"] = "image"


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
        DataError: the table cannot be evaluated (the reason from `evaluable`), or features that do not fit it.
    """
    return rank_metrics(q_features, g_features, *_ids(table), ap=ap, chunk=chunk)


def evaluate_distances(blocks: DistanceBlocks, table: ImageTable, *, ap: APForm = "mean") -> RankMetrics:
    """As `evaluate_table`, from distances, such as re-ranked ones.

    Args:
        blocks: row ranges of the query split, in order, each with distances [rows, G] to the gallery split.
        table, ap: as in `evaluate_table`.

    Raises:
        DataError: the table cannot be evaluated (the reason from `evaluable`), or distances are not finite.
        ValueError: blocks that do not fit the table.
    """
    return rank_metrics_of_distances(blocks, *_ids(table), ap=ap)


def evaluable(table: ImageTable) -> str | None:
    """None if `evaluate_table` can evaluate the table, else a one-line reason.

    It reads only the table, so call it before extracting features.
    """
    reason = missing_part(table)
    if reason is not None:
        return reason
    query, gallery = table.split("query"), table.split("gallery")
    if not has_valid_match(query, gallery):
        return f"{table.name} cannot be evaluated: the gallery holds no image of a query's identity by another camera."
    return None


def camera_note(table: ImageTable) -> str | None:
    """A one-line note to print with the metrics if cameras are missing, else None."""
    missing = sum(int((table.split(name).camids == UNKNOWN).sum()) for name in ("query", "gallery"))
    if not missing:
        return None
    n_images = len(table.split("query")) + len(table.split("gallery"))
    which = "has no cameras" if missing == n_images else f"has {missing} of {n_images} images without a camera"
    return f"{table.name} {which}: same-camera matches are not removed for them, so the metrics are higher."


def _ids(table: ImageTable) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """pids of query and gallery, then camids."""
    reason = evaluable(table)
    if reason is not None:
        raise DataError(reason)
    query, gallery = table.split("query"), table.split("gallery")
    return query.pids, gallery.pids, query.camids, gallery.camids


def _single_query(q_features: Array, g_features: Array, table: ImageTable, settings: EvaluationConfig) -> Metrics:
    return evaluate_table(q_features, g_features, table, ap=settings.ap).as_dict()


def _sysu_mm01(q_features: Array, g_features: Array, table: ImageTable, settings: EvaluationConfig) -> Metrics:
    given = settings.permutations
    trials = evaluate_sysu_mm01(
        q_features,
        g_features,
        table,
        search=settings.search,
        shots=settings.shots,
        n_trials=settings.trials,
        permutations=None if given is None else read_sysu_permutations(as_path(given)),
    )
    return trials.as_dict()


def _sysu_evaluable(table: ImageTable, settings: EvaluationConfig) -> str | None:
    if settings.permutations is not None:
        read_sysu_permutations(as_path(settings.permutations))  # report an invalid file before extraction
    return sysu_evaluable(table, search=settings.search)


def _regdb(q_features: Array, g_features: Array, table: ImageTable, settings: EvaluationConfig) -> Metrics:
    return evaluate_regdb(q_features, g_features, table)[settings.direction].as_dict()


def _mars(q_features: Array, g_features: Array, table: ImageTable, settings: EvaluationConfig) -> Metrics:
    query, gallery = table.split("query"), table.split("gallery")
    ids = (query.pids, gallery.pids, query.camids, gallery.camids)
    return mars(q_features, g_features, *ids, ap=settings.ap).as_dict()


def _camera_cycles(q_features: Array, g_features: Array, table: ImageTable, settings: EvaluationConfig) -> Metrics:
    cycles = cycle_consistency(np.asarray(g_features, dtype=np.float32), table.camids)
    if cycles is None:
        raise DataError(f"{table.name} has fewer than two cameras.")
    return {"cycle_consistency": cycles, "n_images": len(table)}


def _cycles_evaluable(table: ImageTable, settings: EvaluationConfig) -> str | None:
    camids = table.split("train").camids
    if len(np.unique(camids[camids != UNKNOWN])) > 1:
        return None
    return (
        f"{table.name} cannot be evaluated by evaluation.protocol=camera_cycles: its training split has fewer than two "
        f"cameras."
    )


PROTOCOLS: dict[str, EvaluationProtocol] = {
    "single_query": EvaluationProtocol(_single_query, lambda table, settings: evaluable(table)),
    "sysu_mm01": EvaluationProtocol(_sysu_mm01, _sysu_evaluable),
    "regdb": EvaluationProtocol(_regdb, lambda table, settings: regdb_evaluable(table)),
    "mars": EvaluationProtocol(_mars, lambda table, settings: mars_evaluable(table), unit="tracklet"),
    "camera_cycles": EvaluationProtocol(_camera_cycles, _cycles_evaluable, primary="cycle_consistency", split="train"),
}
"""Protocols by the value of `evaluation.protocol`."""


def protocol_of(settings: EvaluationConfig) -> EvaluationProtocol:
    """The protocol that a configuration names."""
    return PROTOCOLS[settings.protocol]


def why_not(table: ImageTable, settings: EvaluationConfig) -> str | None:
    """None if the configured protocol can evaluate a table, else a one-line reason.

    Raises:
        DataError: a file named in the settings cannot be read.
    """
    return protocol_of(settings).evaluable(table, settings)


def evaluation_note(table: ImageTable, settings: EvaluationConfig) -> str | None:
    """A note to print with the metrics of the configured protocol, else None."""
    return camera_note(table) if settings.protocol in ("single_query", "mars") else None
