"""t-SNE of the representations of any model, coloured by identity, as in fig. 6 of HAVANA."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.io.paths import Location
from reid_ray.reports.figures import INK, MUTED, new_figure, save
from reid_ray.run import Run
from reid_ray.types import UNKNOWN, IntArray

N_IDENTITIES = 20
N_IMAGES = 24
"""Maximum number of images per identity."""

PANEL_INCHES = 4.2
PERPLEXITY = 30.0


def draw_features(run: Run, out: Location) -> Location:
    """Draw the representations of test images of 20 people to a PNG, one panel per representation.

    Raises:
        DataError: the run's data has no query and gallery images of known identities.
    """
    table = shown_images(run.dataset.table)
    draw_embeddings(run.representations(table), table.pids, out, title=f"{run.config.name}: t-SNE by identity")
    return out


def shown_images(table: ImageTable) -> ImageTable:
    """Query and gallery images of the 20 people with the most images, at most 24 evenly spaced ones per person."""
    test = table.where(np.array(table.arrow["split"].to_pylist()) != "train")
    pids, counts = np.unique(test.pids[test.pids > UNKNOWN], return_counts=True)
    most = pids[np.argsort(-counts, kind="stable")]
    rows = [_evenly(np.flatnonzero(test.pids == pid)) for pid in most[most != 0][:N_IDENTITIES]]  # 0: distractors
    if len(rows) < 2:
        raise DataError(f"{table.name} has no query and gallery images of known identities; features cannot be drawn.")
    return test.take(np.concatenate(rows))


def draw_embeddings(
    named: Mapping[str, npt.NDArray[np.float32]], labels: IntArray, out: Location, *, title: str = ""
) -> None:
    """Draw vectors in two dimensions, one panel per name; vectors that are equal for all images are left out.

    Args:
        named: name → [N, D].
        labels: int64 [N], which give the colours.
        out: the PNG to write.
        title: headline.
    """
    varied = {name: values for name, values in named.items() if np.ptp(values, axis=0).max() > 0}
    figure = new_figure(PANEL_INCHES * max(1, len(varied)), PANEL_INCHES + 0.5)
    figure.text(0.02, 0.95, title, size=12, weight="bold", color=INK, parse_math=False)
    colours = np.unique(labels, return_inverse=True)[1] % 20
    for number, (name, values) in enumerate(varied.items()):
        axes = figure.add_subplot(1, len(varied), number + 1)
        axes.scatter(*in_two_dimensions(values).T, c=colours, cmap="tab20", s=9, linewidths=0)
        axes.set_title(f"{name} ({values.shape[1]}-d)", loc="left", fontsize=9.5, color=MUTED)
        axes.set(xticks=[], yticks=[])
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.03, top=0.84, wspace=0.06)
    save(figure, out)


def in_two_dimensions(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """t-SNE, [N, D] → [N, 2]; deterministic."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
    found: npt.NDArray[np.float32] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(values)
    return found


def _evenly(rows: IntArray) -> IntArray:
    if len(rows) <= N_IMAGES:
        return rows
    return rows[np.linspace(0, len(rows) - 1, N_IMAGES).round().astype(np.int64)]
