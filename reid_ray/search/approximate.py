"""Approximate search in a large index: faiss proposes rows, whose similarities are then computed exactly.

The file `_ivf.faiss` in the index folder holds the rows of all parts in cells. The first approximate search writes it;
after an addition the next one adds the new rows to the cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reid_ray.io.files import atomic_write_bytes
from reid_ray.io.paths import Location
from reid_ray.labels.features import read
from reid_ray.labels.neighbours import Neighbours, nearest_to
from reid_ray.labels.neighbours.approximate import SPARE, add_rows, faiss_module, inverted_file, threads_of_torch
from reid_ray.labels.neighbours.queries import check_queries
from reid_ray.types import FeatureRows, FloatArray

FILE = "_ivf.faiss"

CELLS_VISITED = 64
"""Cells whose rows a query sees (nprobe)."""


def open_inverted_file(index: Location, features: FeatureRows) -> Any:
    """The inverted file of an index folder, made or completed if rows are missing.

    Args:
        features: of all parts, float32 [N, D], L2-normalised.

    Raises:
        ConfigError: faiss is not installed.
    """
    faiss = faiss_module()
    with threads_of_torch(faiss):
        found = _read(faiss, index / FILE, features)
        if found is None:
            found, n_known = inverted_file(features), 0
        else:
            n_known = found.ntotal
            add_rows(found, features)
    if found.ntotal > n_known:
        atomic_write_bytes(index / FILE, faiss.serialize_index(found).tobytes())
    return found


def nearest_among_cells(
    queries: FloatArray,
    features: FeatureRows,
    k: int,
    inverted: Any,
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    n_cells: int = CELLS_VISITED,
) -> Neighbours:
    """As `nearest_to`, among the rows of the cells nearest to each query; similarities and order are exact.

    A query for which these cells hold fewer than k allowed rows is compared with all rows.

    Args:
        inverted: an inverted file of `features`.
        n_cells: cells that a query visits; more are slower and miss fewer neighbours.

    Raises:
        ConfigError, DataError: as `nearest_to`.
    """
    check_queries(queries, features, k)
    faiss, n_rows = faiss_module(), features.shape[0]
    k = min(k, n_rows)
    n_found = k if allowed is None else min(k, int(allowed.sum()))
    settings = faiss.SearchParametersIVF(nprobe=min(n_cells, inverted.nlist))
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        settings.sel = faiss.IDSelectorBitmap(bits)
    with threads_of_torch(faiss):
        proposed = inverted.search(queries, min(k + SPARE, n_rows), params=settings)[1]
    indices = np.full((len(queries), k), -1, dtype=np.int32)
    similarities = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for at, row in enumerate(proposed):
        query, candidates = queries[at : at + 1], np.sort(row[row >= 0])
        if len(candidates) < max(n_found, 1):
            best = nearest_to(query, features, k, allowed=allowed)
            indices[at], similarities[at] = best.indices[0], best.similarities[0]
        else:
            rows = np.concatenate([read(features, slice(each, each + 1)) for each in candidates])
            best = nearest_to(query, rows, n_found)
            indices[at, :n_found], similarities[at, :n_found] = candidates[best.indices[0]], best.similarities[0]
    return Neighbours(indices, similarities)


def _read(faiss: Any, file: Location, features: FeatureRows) -> Any:
    """The inverted file of a folder; None if there is none that fits the features, or it is damaged."""
    try:
        found = faiss.deserialize_index(np.frombuffer(file.read_bytes(), dtype=np.uint8))
    except (OSError, RuntimeError, ValueError):
        return None
    n_rows, dim = features.shape
    return found if found.d == dim and found.ntotal <= n_rows else None
