"""Query and gallery for undivided images: identities held out of training, or a test set without a division."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from reid_ray.data.table import SPLITS, ImageTable
from reid_ray.errors import DataError
from reid_ray.types import UNKNOWN, IntArray


def hold_out(table: ImageTable, share: float) -> ImageTable:
    """Turn some identities of a table's training split into query and gallery; the table's own test rows are dropped.

    The held-out identities are selected by a hash of the pid alone: the selection is the same in every process and with
    every seed, and a larger share holds out a superset. For each of them, one image per camera is a query as long as
    the gallery keeps a match by another camera for all queries (`query_rows`); the other images are gallery. Identities
    without a possible query (those seen by one camera) and images of unknown identity stay in training.

    Args:
        table: rows of all splits, with the identities of train.
        share: of the identities that can be queries, above 0 and below 1; rounded, and at least one of them.

    Returns:
        A table named `…-holdout`, train first, then query, then gallery, rows within a split in their order.

    Raises:
        DataError: no identities in train, none that can be a query, or nothing left to train on.
    """
    train = table.split("train")
    if not train.has_pids:
        raise DataError(
            f"{table.name} has no identities in its training split, so none can be held out; set data.holdout=0."
        )
    pids, camids = train.pids, train.camids
    queries = {pid: rows[query_rows(camids[rows].tolist())] for pid, rows in _rows_by_pid(pids).items()}
    matchable = sorted((pid for pid, rows in queries.items() if len(rows)), key=_place)
    if not matchable:
        raise DataError(
            f"{table.name} has no identity in its training split with images by two cameras, so none can be held out; "
            f"set data.holdout=0."
        )
    chosen = matchable[: max(1, round(share * len(matchable)))]
    split = np.where(np.isin(pids, chosen), SPLITS.index("gallery"), SPLITS.index("train"))
    split[np.concatenate([queries[pid] for pid in chosen])] = SPLITS.index("query")
    if not (split == SPLITS.index("train")).any():
        raise DataError(
            f"data.holdout={share} takes all {len(chosen)} identities of {table.name}, and leaves nothing to train on; "
            f"take a smaller share."
        )
    return replace(_with_splits(train, split), name=f"{table.name}-holdout")


def as_query_and_gallery(table: ImageTable) -> ImageTable:
    """Divide the gallery of a table: one image per camera of each identity becomes a query (`query_rows`).

    Images of unknown identity, and identities without a possible query, stay in the gallery.
    """
    pids, camids = table.pids, table.camids
    split = np.array([SPLITS.index(name) for name in table.arrow["split"].to_pylist()], dtype=np.int64)
    gallery = np.flatnonzero(split == SPLITS.index("gallery"))
    for rows in _rows_by_pid(pids[gallery]).values():
        own = gallery[rows]
        split[own[query_rows(camids[own].tolist())]] = SPLITS.index("query")
    return _with_splits(table, split)


def query_rows(camids: Sequence[int]) -> list[int]:
    """Select the queries of one identity: the first image of each camera, as long as all queries keep a match.

    A match is an image that is not a query, by another camera or, if either camera is unknown, by any camera. Cameras
    are visited in ascending order. An identity seen by one camera has no query.
    """
    left = Counter(camids)
    rows: list[int] = []
    for camid in sorted(left):
        left[camid] -= 1
        asked = [*(camids[row] for row in rows), camid]
        if all(any(n and (other != own or own == UNKNOWN) for other, n in left.items()) for own in asked):
            rows.append(camids.index(camid))
        else:
            left[camid] += 1
    return rows


def _rows_by_pid(pids: IntArray) -> dict[int, IntArray]:
    """Known pid → its rows, ascending."""
    order = np.argsort(pids, kind="stable")
    values, starts = np.unique(pids[order], return_index=True)
    rows = np.split(order, starts[1:])
    return {int(pid): own for pid, own in zip(values, rows, strict=True) if pid != UNKNOWN} if len(pids) else {}


def _place(pid: int) -> bytes:
    """Sort key of an identity in the order in which identities are held out."""
    return hashlib.sha256(str(pid).encode()).digest()


def _with_splits(table: ImageTable, split: IntArray) -> ImageTable:
    """The table with other splits, given as positions in `SPLITS`, and its rows in their order."""
    index = table.arrow.column_names.index("split")
    names = pa.array(np.array(SPLITS)[split].tolist(), pa.string())
    named = table.arrow.set_column(index, table.arrow.schema.field("split"), names)
    return ImageTable(named, table.name).take(np.argsort(split, kind="stable"))
