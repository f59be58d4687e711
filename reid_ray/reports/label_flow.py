"""How labels move from one refresh to the next: what becomes of each image, and of each cluster."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from reid_ray.io.paths import Location
from reid_ray.reports.figures import BLUE, FAINT, GREEN, INK, MUTED, ORANGE, SKY, VERMILION, new_figure, save
from reid_ray.types import OUTLIER, IntArray

FATES = {
    "stays": (BLUE, "in the largest part of its cluster, which the next one mostly consists of"),
    "merged": (SKY, "in the largest part of its cluster, into one that mostly comes from another"),
    "split off": (ORANGE, "in a smaller part of its cluster"),
    "left": (VERMILION, "from a cluster to the outliers"),
    "joined": (GREEN, "from the outliers to a cluster"),
    "outlier": (FAINT, "in no cluster before and after"),
}
"""What can become of an image: colour, and what it means. Colours are those of Okabe and Ito."""


def fates(before: IntArray, after: IntArray) -> dict[str, int]:
    """The number of images of each fate, in the order of `FATES`.

    Of two parts or sources of equal size the one with the lower number counts as the largest.

    Args:
        before, after: int64 [N], labels of the same images.
    """
    was, is_now = before != OUTLIER, after != OUTLIER
    both = was & is_now
    old, new = before[both], after[both]
    cells, cell_of, counts = np.unique(np.stack([old, new]), axis=1, return_inverse=True, return_counts=True)
    main_successor, main_source = (_is_largest(cells[side], cells[1 - side], counts) for side in (0, 1))
    successor, source = main_successor[cell_of.ravel()], main_source[cell_of.ravel()]
    return {
        "stays": int((successor & source).sum()),
        "merged": int((successor & ~source).sum()),
        "split off": int((~successor).sum()),
        "left": int((was & ~is_now).sum()),
        "joined": int((~was & is_now).sum()),
        "outlier": int((~was & ~is_now).sum()),
    }


def draw_flow(labels: Sequence[IntArray], out: Location) -> Location | None:
    """Draw the fates of images between consecutive refreshes as stacked bars to a PNG; None with fewer than two.

    Args:
        labels: int64 [N] of each epoch, in order.
    """
    if len(labels) < 2 or not len(labels[0]):
        return None
    found = [fates(before, after) for before, after in pairwise(labels)]
    figure = new_figure(8.6, 3.4)
    axes = figure.add_axes((0.07, 0.14, 0.7, 0.74))
    position = np.arange(2, len(labels) + 1)
    bottom = np.zeros(len(found))
    for name, (colour, _) in FATES.items():
        share = np.array([100 * each[name] / len(labels[0]) for each in found])
        axes.bar(position, share, 0.85, bottom=bottom, color=colour, label=name)
        bottom += share
    axes.set(xlabel="labels of epoch", ylim=(0, 100), xlim=(1.4, len(labels) + 0.6))
    axes.set_title("What became of the images since the epoch before, %", loc="left", fontsize=9.5, color=INK)
    axes.tick_params(colors=MUTED)
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="center right", frameon=False, reverse=True)
    save(figure, out)
    return out


def _is_largest(group: IntArray, member: IntArray, counts: IntArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """bool [cells]: whether a cell is the largest of its group; of equal ones the lowest member's."""
    order = np.lexsort((member, -counts, group))
    largest = np.zeros(len(group), dtype=np.bool_)
    largest[order[np.unique(group[order], return_index=True)[1]]] = True
    return largest
