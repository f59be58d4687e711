"""Degenerate labels, which give nothing to train on: a run keeps the previous ones for a limited number of epochs."""

from __future__ import annotations

from reid_ray.config import LabelsConfig
from reid_ray.errors import DegenerateLabelsError
from reid_ray.types import Labels

MIN_CLUSTERS = 2
"""With fewer clusters there are no negatives, hence nothing to learn."""


def is_degenerate(labels: Labels) -> bool:
    """Whether there is nothing to train on: no cluster, or one."""
    return labels.n_clusters < MIN_CLUSTERS


def fall_back(found: Labels, before: Labels | None, settings: LabelsConfig, *, n_in_a_row: int) -> Labels:
    """The previous labels, to train on in place of degenerate ones.

    Args:
        found: the degenerate labels.
        before: the last labels that were trained on; None at the first refresh.
        n_in_a_row: consecutive refreshes with degenerate labels, this one included.

    Raises:
        DegenerateLabelsError: there are no earlier labels, or the labels have been degenerate for more than
            `settings.max_degenerate_epochs` epochs.
    """
    advice = (
        f"labels.eps={settings.eps}, labels.min_samples={settings.min_samples} and labels.k1={settings.k1} decide; "
        f"a larger eps gives fewer outliers, a smaller one more clusters, and better initial weights help most"
    )
    n_clusters = f"{found.n_clusters} cluster{'s' if found.n_clusters != 1 else ''}"
    if before is None:
        raise DegenerateLabelsError(
            f"The first clustering gave {n_clusters} of {len(found.labels)} images, so there is nothing to train on: "
            f"{advice}."
        )
    if n_in_a_row > settings.max_degenerate_epochs:
        raise DegenerateLabelsError(
            f"Clustering gave fewer than {MIN_CLUSTERS} clusters {n_in_a_row} epochs in a row "
            f"({n_clusters} now; labels.max_degenerate_epochs={settings.max_degenerate_epochs}): {advice}."
        )
    return before
