"""The first matches of every query of a run: computed from its features, stored in its directory, and chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from reid_ray.data.feature_folder import table_digest
from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.evaluation import score_queries, top_matches
from reid_ray.evaluation.arguments import Array
from reid_ray.io.files import atomic_write_bytes, parquet_bytes
from reid_ray.io.paths import as_readable
from reid_ray.reports.ranked import compared_pids, evenly, similarities_of
from reid_ray.run import Run
from reid_ray.training.datasets import query_and_gallery
from reid_ray.training.services import compared_items
from reid_ray.types import FloatArray, IntArray

RANKINGS_NAME = "rankings.parquet"
N_MATCHES = 10
BLOCK = 256
"""Queries whose similarities are computed at a time."""


@dataclass(frozen=True, eq=False)
class Rankings:
    """Rankings of Q queries: images, or tracklets where the protocol compares them.

    Attributes:
        paths: of the queries; of a tracklet, that of its first image.
        ap: float64 [Q], average precision by the single-query rule; NaN where no identity or no match is known.
        matches: int64 [Q, k], rows of the gallery, best first; −1 where fewer are left.
        similarities: float32 [Q, k], cosines; undefined where a match is −1.
        global_step: optimizer steps of the model.
    """

    paths: list[str]
    ap: npt.NDArray[np.float64]
    matches: IntArray
    similarities: npt.NDArray[np.float32]
    global_step: int = 0


def table_to_rank(run: Run) -> ImageTable:
    """The run's query rows, followed by its gallery rows.

    Raises:
        DataError: the run's data has no query or no gallery.
    """
    check_rankable(run.dataset)
    return query_and_gallery(run.dataset.table, run.config.evaluation)


def check_rankable(dataset: Dataset) -> None:
    """Raise `DataError` if a dataset has no query or no gallery."""
    for name, table in (("query", dataset.query), ("gallery", dataset.gallery)):
        if not len(table):
            raise DataError(f"{dataset.table.name} has no {name} split, so there is nothing to rank.")


def rank_run_queries(run: Run, features: FloatArray) -> Rankings:
    """Rank every query of a run.

    Args:
        features: [N, D] of `table_to_rank(run)`, by the run's last model.
    """
    settings = run.config.evaluation
    q_features, g_features, items = compared_items(features, table_to_rank(run), settings)
    return rank_queries(items.split("query"), items.split("gallery"), q_features, g_features, global_step=_step(run))


def rank_queries(
    query: ImageTable,
    gallery: ImageTable,
    q_features: Array,
    g_features: Array,
    *,
    k: int = N_MATCHES,
    global_step: int = 0,
) -> Rankings:
    """Rank a gallery for each query by cosine, after the removals of the single-query protocol.

    Args:
        query, gallery: tables of Q and G items; without identities nothing is removed.
        q_features, g_features: [Q, D] and [G, D], L2-normalised.
        k: matches that are kept.
        global_step: optimizer steps of the model.
    """
    ids = (*compared_pids(query, gallery), query.camids, gallery.camids)
    matches = top_matches(q_features, g_features, *ids, k=k)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(query), BLOCK)]
    similarities = [similarities_of(q_features[rows], g_features, matches[rows]) for rows in blocks]
    ap = score_queries(q_features, g_features, *ids).ap
    return Rankings(query.paths, ap, matches, np.concatenate(similarities), global_step)


def write_rankings(run: Run, rankings: Rankings) -> None:
    """Store rankings in the run directory, as `rankings.parquet`."""
    k = rankings.matches.shape[1]
    columns = {
        "path": pa.array(rankings.paths, pa.string()),
        "ap": pa.array(rankings.ap),
        "matches": pa.FixedSizeListArray.from_arrays(pa.array(rankings.matches.ravel()), k),
        "similarities": pa.FixedSizeListArray.from_arrays(pa.array(rankings.similarities.ravel()), k),
    }
    about = {"table": table_digest(run.dataset.table), "global_step": str(rankings.global_step)}
    atomic_write_bytes(run.path / RANKINGS_NAME, parquet_bytes(pa.table(columns).replace_schema_metadata(about)))


def stored_rankings(run: Run) -> Rankings | None:
    """Rankings in the run directory; None if there are none to use: no file, a damaged one, or one of other images.

    Raises:
        DataError: the run's data cannot be read.
    """
    file = run.path / RANKINGS_NAME
    if not file.is_file():
        return None
    try:
        stored = pq.read_table(as_readable(file))
        about = stored.schema.metadata or {}
        if about[b"table"].decode() != table_digest(run.dataset.table):
            return None
        matches, similarities = (
            stored[name].combine_chunks().flatten().to_numpy().reshape(len(stored), -1)
            for name in ("matches", "similarities")
        )
        paths, ap = stored["path"].to_pylist(), stored["ap"].to_numpy()
        return Rankings(paths, ap, matches, similarities, int(about[b"global_step"]))
    except (pa.ArrowException, KeyError, ValueError):
        return None


def is_current(run: Run, rankings: Rankings) -> bool:
    """Whether rankings are those of the run's last model."""
    return rankings.global_step == _step(run)


def hardest(ap: npt.NDArray[np.float64], n: int) -> IntArray:
    """Rows of at most n queries with the lowest average precision, lowest first; queries without one are left out."""
    known = np.flatnonzero(~np.isnan(ap))
    return known[np.argsort(ap[known], kind="stable")[:n]]


def most_different(ap: npt.NDArray[np.float64], n: int) -> IntArray:
    """Rows of at most n queries on which runs differ most.

    Queries are in the order of the difference between the highest and the lowest average precision of [Q, R] in R runs,
    the largest first, of equal ones the harder first. Without average precisions they are chosen at even steps.
    """
    known = np.flatnonzero(~np.isnan(ap).any(axis=1))
    if not len(known):
        return evenly(np.arange(len(ap)), n)
    return known[np.lexsort((ap[known].mean(axis=1), -np.ptp(ap[known], axis=1)))[:n]]


def shared_rows(keys: Sequence[Sequence[tuple[object, ...]]]) -> IntArray:
    """Rows [n, R] of the keys that all R lists have, in the order of the first list."""
    rows = [{key: row for row, key in enumerate(each)} for each in keys]
    found = [[each[key] for each in rows] for key in rows[0] if all(key in each for each in rows)]
    return np.array(found, dtype=np.int64).reshape(-1, len(rows))


def _step(run: Run) -> int:
    """Optimizer steps after the last finished epoch, at whose end the last model was written."""
    return max((int(event["global_step"]) for event in run.metrics("epoch")), default=0)
