"""Histograms of similarities: pairs that the labels, or the identities, call one person, against all others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from reid_ray.io.paths import Location
from reid_ray.reports.figures import BLUE, MUTED, VERMILION, dress, new_figure, save
from reid_ray.types import FloatArray, IntArray

MAX_ROWS = 2000
"""Rows of a sample, drawn evenly, whose pairs are counted."""

BINS = np.linspace(-1, 1, 101)

Counts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def similarity_counts(features: FloatArray, groups: IntArray) -> Counts:
    """Histograms over `BINS` of the cosine similarities of positive and of negative pairs.

    Args:
        features: float32 [N, D], L2-normalised.
        groups: int64 [N]; pairs of one group are positive. Rows with a negative number are left out.
    """
    known = np.flatnonzero(groups >= 0)
    rows = known[np.linspace(0, len(known) - 1, min(MAX_ROWS, len(known))).astype(np.int64)]
    above = np.triu_indices(len(rows), 1)
    values = np.clip((features[rows] @ features[rows].T)[above], -1, 1)
    positive = groups[rows][above[0]] == groups[rows][above[1]]
    return np.histogram(values[positive], BINS)[0], np.histogram(values[~positive], BINS)[0]


def draw_similarities(features: FloatArray, groups: dict[str, IntArray], out: Location) -> Location:
    """Draw the histograms to a PNG, a panel for each grouping with its name.

    Args:
        groups: name → grouping as in `similarity_counts`.
    """
    figure = new_figure(4.3 * len(groups), 2.9)
    middle = (BINS[1:] + BINS[:-1]) / 2
    for number, (name, grouping) in enumerate(groups.items()):
        axes = figure.add_subplot(1, len(groups), number + 1)
        dress(axes)
        counts = similarity_counts(features, grouping)
        styles = (("the same", BLUE, "-"), ("different", VERMILION, "--"))
        for values, (label, colour, line) in zip(counts, styles, strict=True):
            axes.plot(middle, values / max(values.sum(), 1), line, color=colour, label=label)
        axes.set_title(name, loc="left", fontsize=9.5, color=MUTED)
        axes.set(yticks=[], xlabel="cosine similarity")
        axes.legend(frameon=False, fontsize=8)
    figure.subplots_adjust(left=0.04, right=0.98, bottom=0.19, top=0.88, wspace=0.1)
    save(figure, out)
    return out
