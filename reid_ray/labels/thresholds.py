"""DBSCAN's eps from the distance distribution: the mean of a small share of the closest pairs.

The rule of self-similarity grouping (Fu et al., ICCV 2019), also used by MMT and ABMT, with a share of 1.6e-3: the
mean distance of the closest `share` of all pairs that are not at distance 0.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from reid_ray.errors import ConfigError


def eps_for_share(graph: csr_array, share: float, complete: bool = False) -> float | None:
    """Mean of the smallest `round(share · P)` distances, at least one, among the P pairs that are not at distance 0.

    Each pair counts once. Pairs at distance exactly 0 (duplicates) are neither averaged nor counted, as in the released
    code. Absent pairs count as farther apart than all stored ones. So the result equals that of the dense matrix and is
    never above the largest stored distance: the graph holds all pairs that DBSCAN needs.

    Args:
        graph: float32 [N, N], symmetric, with all pairs up to some distance.
        share: share of the pairs, above 0 and up to 1; `round` rounds half to even.
        complete: the graph stores all pairs below distance 1. If they are fewer than the share, the mean is over them:
            with pairs at distance 1, eps would join all images.

    Returns:
        None if the graph stores fewer pairs than the share requires and is not complete: build it with a larger
        `max_distance`. 0 if there are no pairs, or all are at distance 0.

    Raises:
        ConfigError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ConfigError(f"The share of pairs for eps must be above 0 and at most 1; got {share}.")
    n_rows = graph.shape[0]
    entries = graph.tocoo(copy=False)
    distances = graph.data[entries.col > entries.row]
    n_stored = len(distances)
    distances = distances[distances > 0]
    n_pairs = n_rows * (n_rows - 1) // 2 - (n_stored - len(distances))
    if not n_pairs or (complete and not len(distances)):
        return 0.0
    n_closest = max(1, round(share * n_pairs))
    if complete:
        n_closest = min(n_closest, len(distances))
    if n_closest > len(distances):
        return None
    return float(np.partition(distances, n_closest - 1)[:n_closest].mean(dtype=np.float64))
