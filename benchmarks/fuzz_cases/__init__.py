"""Cases of `fuzz.py`: strategies for inputs, and checks of the results.

Each kind is a strategy and a check. The check reads one input and returns "read" or "refused" (a `UserError`); it
raises `WrongValueError` if a result differs from that of a slow, simple oracle, and does not catch other exceptions.
"""

from __future__ import annotations

from fuzz_cases import arrays, configurations, images, lists, packed, rankings
from fuzz_cases.kind import Kind

KINDS = {
    "images": Kind(images.image_files(), images.check_image),
    "lists": Kind(lists.lists(), lists.check_list),
    "configurations": Kind(configurations.configurations(), configurations.check_configuration),
    "arrays": Kind(arrays.arrays(), arrays.check_array),
    "rankings": Kind(rankings.rankings(), rankings.check_ranking),
    "clusterings": Kind(rankings.clusterings(), rankings.check_clustering),
    "packed": Kind(packed.packed_datasets(), packed.check_packed),
    "weights": Kind(packed.weights_files(), packed.check_weights),
}

SHARES = {
    "images": 0.5,
    "lists": 0.12,
    "configurations": 0.08,
    "arrays": 0.08,
    "rankings": 0.06,
    "clusterings": 0.04,
    "packed": 0.06,
    "weights": 0.06,
}
"""Shares of all cases: files reach native code, so they get the most."""
