"""A validation set of people who leave the training split, so that settings can be chosen without the test set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from reid_ray.data.table import SPLITS, ImageTable
from reid_ray.errors import DataError
from reid_ray.types import UNKNOWN, IntArray


def hold_out(table: ImageTable, share: float) -> ImageTable:
    """The training rows of a table, in which some people have become query and gallery; its own are dropped.

    Who is held out follows from a hash of the pid alone: it is the same in every process and with every seed, and a
    larger share holds out the same people and more. Of each, one image per camera is a query as long as the gallery
    keeps a match by another camera for all queries (`query_rows`); the other images are gallery. People of whom no
    image can be a query (those seen by one camera) and images of unknown identity stay in training.

    Args:
        table: rows of all splits, with the identities of train.
        share: of the people that can be queries, above 0 and below 1; rounded, and at least one of them.

    Returns:
        A table named `…-holdout`, train first, then query, then gallery, rows within a split in their order.

    Raises:
        DataError: no identities in train, nobody there who can be a query, or nothing left to train on.
    """
    train = table.split("train")
    if not train.has_pids:
        raise DataError(
            f"{table.name} has no identities in its training split, so nobody can be held out; set data.holdout=0."
        )
    pids, camids = train.pids, train.camids
    queries = {int(pid): _queries(pids, camids, int(pid)) for pid in np.unique(pids[pids != UNKNOWN])}
    matchable = sorted((pid for pid, rows in queries.items() if len(rows)), key=_place)
    if not matchable:
        raise DataError(
            f"{table.name} has no person in its training split with images by two cameras, so nobody can be held out; "
            f"set data.holdout=0."
        )
    chosen = matchable[: max(1, round(share * len(matchable)))]
    split = np.where(np.isin(pids, chosen), SPLITS.index("gallery"), SPLITS.index("train"))
    split[np.concatenate([queries[pid] for pid in chosen])] = SPLITS.index("query")
    if not (split == SPLITS.index("train")).any():
        raise DataError(
            f"data.holdout={share} takes all {len(chosen)} people of {table.name}, and leaves nothing to train on; "
            f"take a smaller share."
        )
    named = train.arrow.set_column(
        train.arrow.column_names.index("split"),
        train.arrow.schema.field("split"),
        pa.array(np.array(SPLITS)[split].tolist(), pa.string()),
    )
    return ImageTable(named, f"{table.name}-holdout").take(np.argsort(split, kind="stable"))


def query_rows(camids: Sequence[int]) -> list[int]:
    """Which of one person's images are queries: the first at each camera, as long as all queries stay answerable.

    A query is answered by an image that is no query, by another camera or, where one of the two is unknown, by any.
    Cameras are asked in ascending order; so a person seen by one camera has no query.
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


def _queries(pids: IntArray, camids: IntArray, pid: int) -> IntArray:
    """Rows of a person's queries."""
    rows = np.flatnonzero(pids == pid)
    return rows[query_rows(camids[rows].tolist())]


def _place(pid: int) -> bytes:
    """Where a person stands in the order of being held out."""
    return hashlib.sha256(str(pid).encode()).digest()
