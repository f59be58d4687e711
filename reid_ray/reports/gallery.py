"""The cluster gallery: a folder with a page that shows clusters as rows of crops and takes corrections.

`index.html` holds everything but the thumbnails, which are sheets in `sprites/`. It opens from a disk, without a server
or a network. Corrections leave it as a download, `constraints.csv` (`labels.constraints`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from reid_ray.data.images import ImageReader
from reid_ray.data.table import ImageTable
from reid_ray.io.files import atomic_write_bytes
from reid_ray.io.paths import Location
from reid_ray.reports.crops import time_text
from reid_ray.reports.sprites import write_sprites
from reid_ray.reports.templating import render
from reid_ray.types import OUTLIER, UNKNOWN, IntArray

PAGE_NAME = "index.html"
THUMBNAIL_HEIGHT = 96


@dataclass(frozen=True)
class Pair:
    """A question about two images.

    Attributes:
        row, other: rows of the table.
        kind: `merge` or `split`.
        probability: estimate that they are the same.
        near_row, near_other: rows that are shown for each side, itself first; only itself if empty.
    """

    row: int
    other: int
    kind: str
    probability: float
    near_row: Sequence[int] = ()
    near_other: Sequence[int] = ()


@dataclass(frozen=True)
class Scores:
    """What is known of clusters without identities; empty where there is no graph.

    Attributes:
        medoids: int64 [n_clusters], the row that stands for each cluster.
        mixed: cluster → 1 − the estimate that its halves are one person.
        pairs: questions, most valuable first.
    """

    medoids: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    mixed: dict[int, float] = field(default_factory=dict)
    pairs: Sequence[Pair] = ()


def write_gallery(
    folder: Location,
    table: ImageTable,
    labels: IntArray,
    images: ImageReader,
    *,
    title: str,
    subtitle: str = "",
    scores: Scores | None = None,
    aspect: float = 0.5,
    on_images: Callable[[int], None] | None = None,
) -> Location:
    """Write the gallery of a labelling.

    Args:
        folder: is created; files of an earlier gallery are replaced.
        table: the N images.
        labels: int64 [N], 0 … n_clusters−1 or `OUTLIER`.
        images: reads the table's paths.
        title, subtitle: headline of the page.
        scores: of the clusters.
        aspect: width / height of a thumbnail.
        on_images: called with the number of images of each finished sheet.

    Returns:
        The path of the page.

    Raises:
        DataError: no image can be read.
    """
    scores = scores or Scores()
    clusters = _clusters(table, labels, scores)
    shown = [row for cluster in clusters for row in cluster["rows"]]
    shown += np.flatnonzero(labels == OUTLIER).tolist()
    place = np.empty(len(table), dtype=np.int64)
    place[shown] = np.arange(len(shown))
    paths, times = table.paths, table.times
    width = max(8, round(THUMBNAIL_HEIGHT * aspect))
    sprites = write_sprites(
        images,
        [paths[row] for row in shown],
        folder / "sprites",
        height=THUMBNAIL_HEIGHT,
        width=width,
        on_images=on_images,
    )
    for cluster in clusters:
        cluster["rows"] = [int(place[row]) for row in cluster["rows"]]
    data = {
        "key": hashlib.sha256("\0".join(paths).encode("utf-8", "surrogatepass")).hexdigest()[:16],
        "sprites": asdict(sprites),
        "paths": [paths[row] for row in shown],
        "cameras": table.camids[shown].tolist() if table.has_cameras else None,
        "times": [None if times[row] is None else time_text(times[row]) for row in shown] if any(times) else None,
        "identities": table.pids[shown].tolist() if table.has_pids else None,
        "clusters": clusters,
        "outliers": [int(place[row]) for row in np.flatnonzero(labels == OUTLIER)],
        "pairs": [_placed(pair, place) for pair in scores.pairs],
    }
    page = folder / PAGE_NAME
    atomic_write_bytes(page, render("gallery.html", title=title, subtitle=subtitle, data=data).encode())
    return page


def _placed(pair: Pair, place: IntArray) -> dict[str, Any]:
    """A pair with the numbers that images have on the page."""
    sides = [
        place[list(rows) or [row]].tolist() for row, rows in ((pair.row, pair.near_row), (pair.other, pair.near_other))
    ]
    return {
        "row": sides[0][0],
        "other": sides[1][0],
        "kind": pair.kind,
        "probability": pair.probability,
        "sides": sides,
    }


def _clusters(table: ImageTable, labels: IntArray, scores: Scores) -> list[dict[str, Any]]:
    """Rows and scores of each cluster; its medoid comes first."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max(initial=OUTLIER) + 2))
    pids, camids = table.pids, table.camids
    found = []
    for number in range(len(starts) - 1):
        rows = order[starts[number] : starts[number + 1]]
        if number < len(scores.medoids):
            rows = np.concatenate([scores.medoids[[number]], rows[rows != scores.medoids[number]]])
        cameras = np.unique(camids[rows][camids[rows] != UNKNOWN])
        people, counts = np.unique(pids[rows][pids[rows] != UNKNOWN], return_counts=True)
        found.append(
            {
                "number": number,
                "rows": rows,
                "cameras": len(cameras),
                "mixed": round(scores.mixed.get(number, 0.0), 4) if scores.mixed else None,
                "identity": int(people[counts.argmax()]) if len(people) else None,
                "purity": round(float(counts.max() / counts.sum()), 4) if len(people) else None,
            }
        )
    return found
