"""t-SNE of the representations of any model, by identity, as in fig. 6 of HAVANA, and by camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.io.paths import Location
from reid_ray.reports.figures import INK, MUTED, SERIES, new_figure, save
from reid_ray.reports.ranked import evenly
from reid_ray.run import Run
from reid_ray.types import UNKNOWN, IntArray

N_IDENTITIES = 20
N_IMAGES = 24
"""Maximum number of images per identity."""

PANEL_INCHES = 4.2
MAX_LEGEND = 12
"""Number of groups up to which they are named below a panel."""

MARKERS = ("o", "^", "s", "D")
"""Shapes: with the six colours of figures, 24 groups differ."""

PERPLEXITY = 30.0


def draw_features(run: Run, out: Location) -> Location:
    """Draw the representations of test images of 20 people to a PNG, a row per representation.

    The first column shows identities, the second one cameras, if they are known.

    Raises:
        DataError: the run's data has no query and gallery images of known identities.
    """
    table = shown_images(run.dataset.table)
    groups = {"identity": table.pids} | ({"camera": table.camids} if table.has_cameras else {})
    draw_embeddings(
        run.representations(table), groups, out, title=f"{run.config.name}: t-SNE by {' and '.join(groups)}"
    )
    return out


def shown_images(table: ImageTable) -> ImageTable:
    """Query and gallery images of the 20 people with the most images, at most 24 evenly spaced ones per person."""
    test = table.where(np.array(table.arrow["split"].to_pylist()) != "train")
    pids, counts = np.unique(test.pids[test.pids > UNKNOWN], return_counts=True)
    most = pids[np.argsort(-counts, kind="stable")]
    rows = [
        evenly(np.flatnonzero(test.pids == pid), N_IMAGES) for pid in most[most != 0][:N_IDENTITIES]
    ]  # 0: distractors
    if len(rows) < 2:
        raise DataError(f"{table.name} has no query and gallery images of known identities; features cannot be drawn.")
    return test.take(np.concatenate(rows))


def draw_embeddings(
    named: Mapping[str, npt.NDArray[np.float32]], groups: Mapping[str, IntArray], out: Location, *, title: str = ""
) -> None:
    """Draw vectors in two dimensions: a row per representation, a column per grouping of its points.

    Vectors that are equal for all images are left out. Groups differ in colour and in shape.

    Args:
        named: name → [N, D].
        groups: name of a grouping → int64 [N]; images with a negative number are in no group.
        out: the PNG to write.
        title: headline.
    """
    varied = {name: values for name, values in named.items() if np.ptp(values, axis=0).max() > 0}
    points = {f"{name} ({values.shape[1]}-d)": in_two_dimensions(values) for name, values in varied.items()}
    n_columns, n_rows = len(groups), max(1, len(points))
    height = PANEL_INCHES * n_rows + 0.5
    figure = new_figure(PANEL_INCHES * n_columns, height)
    figure.text(0.02, 1 - 0.25 / height, title, size=12, weight="bold", color=INK, parse_math=False)
    for row, (name, places) in enumerate(points.items()):
        for column, (grouping, numbers) in enumerate(groups.items()):
            axes = figure.add_subplot(n_rows, n_columns, row * n_columns + column + 1)
            axes.set_title(f"{name}, by {grouping}", loc="left", fontsize=9.5, color=MUTED)
            axes.set(xticks=[], yticks=[])
            _scatter(axes, places, numbers, grouping)
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.5 / height, top=1 - 0.7 / height, wspace=0.06, hspace=0.22)
    save(figure, out)


def _scatter(axes: Any, places: npt.NDArray[np.float32], numbers: IntArray, grouping: str) -> None:
    """Points [N, 2], by their group; with a legend where there are few groups."""
    found = np.unique(numbers)
    look: dict[str, Any] = {"s": 13, "linewidths": 0}
    for rank, number in enumerate(found[found > UNKNOWN]):
        colour, marker = SERIES[rank % len(SERIES)], MARKERS[rank // len(SERIES) % len(MARKERS)]
        mine = places[numbers == number]
        axes.scatter(*mine.T, color=colour, marker=marker, label=f"{grouping} {number}", **look)
    if (found <= UNKNOWN).any():
        axes.scatter(*places[numbers <= UNKNOWN].T, color=MUTED, marker=".", label="unknown", zorder=0, **look)
    if len(found) <= MAX_LEGEND:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncol": 4, "handletextpad": 0.1}
        axes.legend(frameon=False, fontsize=7, **below)


def in_two_dimensions(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """t-SNE, [N, D] → [N, 2]; deterministic."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
    found: npt.NDArray[np.float32] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(values)
    return found
