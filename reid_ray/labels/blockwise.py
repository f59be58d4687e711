"""DBSCAN on row blocks of a graph that workers hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from reid_ray.labels import clustering, tasks
from reid_ray.labels.constrained import constrained_labels, without_rows
from reid_ray.labels.constraints import Constraints
from reid_ray.labels.executor import Executor
from reid_ray.types import IntArray


def dbscan_in_blocks(
    parts: list[Any],
    eps: float,
    min_samples: int,
    rows: list[range],
    workers: Executor,
    constraints: Constraints | None = None,
) -> IntArray:
    """int64 [N]: labels of `clustering.dbscan`, or of `constrained` if there are constraints.

    Args:
        parts: handles to row blocks of the graph, float32 [R, N] each.
        eps, min_samples: as in `clustering.dbscan`.
        rows: of each block.
        workers: executor; the labels do not depend on it.
    """
    if constraints is not None and len(constraints.junk):
        junk = np.zeros(rows[-1].stop, dtype=np.bool_)
        junk[constraints.junk] = True
        parts = [workers.run(without_rows, part, junk, own.start) for part, own in zip(parts, rows, strict=True)]
    masks = workers.get([workers.run(tasks.core_mask, part, eps, min_samples) for part in parts])
    core = np.concatenate(masks)
    forests = workers.get(
        [workers.run(tasks.local_forest, part, core, eps, own.start) for part, own in zip(parts, rows, strict=True)]
    )
    if constraints is not None:
        return constrained_labels(parts, core, forests, constraints, eps, rows, workers)
    core_labels = clustering.merge_forests(core, forests)
    labels = [
        workers.run(tasks.border_labels, part, core_labels, eps, own.start)
        for part, own in zip(parts, rows, strict=True)
    ]
    return np.concatenate(workers.get(labels))
