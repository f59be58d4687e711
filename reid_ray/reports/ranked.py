"""Ranked galleries: one row per query, with its first matches framed as correct or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from torch import Tensor

from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.evaluation import ranked_by_distance, score_queries, top_matches
from reid_ray.evaluation.arguments import Array
from reid_ray.evaluation.ranking import DistanceBlocks
from reid_ray.io.paths import Location
from reid_ray.reports.crops import where_and_when
from reid_ray.reports.figures import FAINT, GREEN, INK, MUTED, VERMILION, new_figure, save
from reid_ray.types import UNKNOWN, IntArray

MAX_CANDIDATES = 512
"""Maximum number of queries to rank and choose from, to limit the cost."""

# Layout, in widths of an image cell; y points down.
CELL_INCHES = 0.8
GAP = 0.2
CAPTION_WIDTH = 1.5
QUERY_GAP = 0.34
SCORE_HEIGHT = 0.42
LINE_HEIGHT = 0.18
TITLE_HEIGHT = 0.95
HEADING_HEIGHT = 0.42
MARGIN = 0.3
MIN_WIDTH = 11.0  # space for the legend and its note


def draw_ranking(
    dataset: Dataset,
    q_features: Array,
    g_features: Array,
    out: Location,
    *,
    queries: Sequence[int] | None = None,
    distances: DistanceBlocks | None = None,
    n: int = 8,
    k: int = 10,
    height: int = 256,
    width: int = 128,
    title: str | None = None,
    cell: float = 1,
) -> None:
    """Draw the rankings of some queries of a dataset to a PNG.

    With known identities, the evaluation protocol filters the gallery, and queries are chosen evenly over average
    precision, from worst to best (of more than 512 queries, 512 at even steps are ranked). Without identities the whole
    gallery is ranked, no match is marked, and queries are chosen at even steps.

    Args:
        dataset: with query and gallery splits.
        q_features: [Q, D] of `dataset.query`.
        g_features: [G, D] of `dataset.gallery`.
        out: the PNG to write.
        queries: rows of `dataset.query` to draw instead, in this order.
        distances: rank by these instead, such as re-ranked ones, of all queries in order.
        n: maximum number of queries to draw.
        k: matches per query.
        height: height of the crops as drawn, pixels.
        width: width of the crops as drawn, pixels.
        title: headline of the figure.
        cell: width of a drawn image relative to a single crop; larger for film strips of tracklets.

    Raises:
        DataError: no queries, no gallery, features that do not fit the splits, an image that cannot be read.
    """
    query, gallery = dataset.query, dataset.gallery
    judged = query.has_pids and gallery.has_pids
    q_pids, g_pids = compared_pids(query, gallery)

    requested = None if queries is None else np.asarray(queries, np.int64)
    candidates = evenly(np.arange(len(query)), MAX_CANDIDATES) if requested is None else requested
    ids = (q_pids[candidates], g_pids, query.camids[candidates], gallery.camids)
    if distances is None:
        ap = score_queries(q_features[candidates], g_features, *ids).ap
    else:
        scores, ranked = ranked_by_distance(_rows_of(distances, candidates), *ids, k=k)
        ap = scores.ap
    chosen = _spread(ap, n) if requested is None else np.arange(len(candidates))
    rows, ap = candidates[chosen], ap[chosen]

    if distances is None:
        ids = (q_pids[rows], g_pids, query.camids[rows], gallery.camids)
        matches = top_matches(q_features[rows], g_features, *ids, k=k)
    else:
        matches = ranked[chosen]
    similarities = similarities_of(q_features[rows], g_features, matches)
    judged = judged and bool((q_pids[rows] != UNKNOWN).all())

    def read(table: ImageTable, image_rows: IntArray) -> list[Tensor]:
        paths = table.take(image_rows).paths
        return [_resized(dataset.images.read(path), height, width) for path in paths]

    draw_ranked_grid(
        read(query, rows),
        [read(gallery, row[row >= 0]) for row in matches],
        (g_pids[matches] == q_pids[rows, None]) if judged else None,
        out,
        similarities=similarities,
        note="" if queries is not None or not judged else "queries from the worst to the best AP",
        captions=[_caption(query, row, score) for row, score in zip(rows, ap, strict=True)],
        match_captions=[_match_captions(gallery, row[row >= 0]) for row in matches],
        title=f"Ranked gallery: {dataset.table.name}" if title is None else title,
        k=k,
        cell=cell,
    )


def compared_pids(query: ImageTable, gallery: ImageTable) -> tuple[IntArray, IntArray]:
    """Identities by which to rank, int64 [Q] and [G].

    Without identities no match may be removed or counted as correct: placeholders that are never equal.
    """
    if query.has_pids and gallery.has_pids:
        return query.pids, gallery.pids
    return np.zeros(len(query), np.int64), np.ones(len(gallery), np.int64)


def draw_ranked_grid(
    query_images: Sequence[Tensor],
    gallery_images: Sequence[Sequence[Tensor]],
    correct: npt.NDArray[np.bool_] | None,
    out: Location,
    *,
    similarities: npt.NDArray[Any] | None = None,
    captions: Sequence[str] | None = None,
    match_captions: Sequence[Sequence[str]] | None = None,
    title: str = "",
    note: str = "",
    k: int | None = None,
    cell: float = 1,
) -> None:
    """Draw n queries with their first k gallery images to a PNG.

    Correct matches have a green frame and a tick, wrong ones a dashed vermilion frame and a cross, so the figure does
    not rely on colour alone.

    Args:
        query_images: n images uint8 RGB [3, H, W]; the first gives the aspect ratio of all cells.
        gallery_images: for each query its matches in order, at most k; missing ones leave an empty cell.
        correct: bool [n, k], whether the match shows the query's person; None if unknown.
        out: the PNG to write.
        similarities: [n, k], written below the images.
        captions: n texts next to the queries; may contain newlines.
        match_captions: for each query a text below each of its matches; may contain newlines.
        title: headline.
        note: a remark next to the legend.
        k: columns; by default those of the longest row.
        cell: width of an image relative to a single crop.
    """
    if len(query_images) == 0 or len(query_images) != len(gallery_images):
        raise ValueError(f"{len(query_images)} queries, {len(gallery_images)} rows of matches: pass one row per query")
    n_columns = k or max(1, *(len(row) for row in gallery_images))
    aspect = float(query_images[0].shape[1] / query_images[0].shape[2])
    texts = _below(gallery_images, similarities, match_captions)
    n_lines = max((text.count("\n") + 1 for row in texts for text in row), default=1)
    sheet = _ImageGrid(len(query_images), n_columns, aspect, cell, n_lines)
    remarks = ("cosine similarity below each image" if similarities is not None else "", note)
    sheet.head(title, ";  ".join(filter(None, remarks)), judged=correct is not None)
    for i, (query_image, row) in enumerate(zip(query_images, gallery_images, strict=True)):
        sheet.query(i, query_image, captions[i] if captions is not None else "")
        for j in range(n_columns):
            if j >= len(row):
                sheet.nothing(i, j)
                continue
            right = None if correct is None else bool(correct[i, j])
            sheet.match(i, j, row[j], right, texts[i][j])
    save(sheet.figure, out)


class _ImageGrid:
    """Layout on one axes over the whole figure; the unit is the width of a single crop."""

    def __init__(self, n_rows: int, n_columns: int, aspect: float, cell: float, n_lines: int) -> None:
        self.cell = cell
        self.height = aspect * cell
        self.left = MARGIN + CAPTION_WIDTH
        self.top = MARGIN + TITLE_HEIGHT + HEADING_HEIGHT
        self.row_height = self.height + SCORE_HEIGHT + (n_lines - 1) * LINE_HEIGHT
        self.n_columns = n_columns
        self.width = max(MIN_WIDTH, self.column(n_columns) - GAP + MARGIN)
        height = self.top + n_rows * self.row_height + MARGIN - 0.1
        self.figure = new_figure(self.width * CELL_INCHES, height * CELL_INCHES)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, self.width), ylim=(height, 0), autoscale_on=False)

    def column(self, j: int) -> float:
        return self.left + self.cell + QUERY_GAP + j * (self.cell + GAP)

    def head(self, title: str, note: str, *, judged: bool) -> None:
        y = MARGIN + 0.25
        self.text(MARGIN, y, title, size=13, weight="bold", ha="left", color=INK)
        legend_y = y + 0.45
        if judged:
            self.badge(MARGIN + 0.14, legend_y, True)
            self.text(MARGIN + 0.4, legend_y, "same identity", ha="left")
            self.badge(MARGIN + 1.84, legend_y, False)
            self.text(MARGIN + 2.1, legend_y, "another identity", ha="left")
        else:
            self.text(MARGIN, legend_y, "identities are not known: nothing is marked right or wrong", ha="left")
        self.text(self.width - MARGIN, legend_y, note, ha="right")
        heading_y = self.top - 0.2
        self.text(self.left + self.cell / 2, heading_y, "query", size=9.5, color=INK)
        for j in range(self.n_columns):
            self.text(self.column(j) + self.cell / 2, heading_y, str(j + 1), size=9.5, color=INK)

    def query(self, i: int, image: Tensor, caption: str) -> None:
        x, y = self.left, self.top + i * self.row_height
        self.image(x, y, image)
        self.frame(x, y, INK, "solid")
        self.text(x - 0.2, y + self.height / 2, caption, ha="right", linespacing=1.5)

    def match(self, i: int, j: int, image: Tensor, right: bool | None, caption: str) -> None:
        x, y = self.column(j), self.top + i * self.row_height
        self.image(x, y, image)
        if right is None:
            self.frame(x, y, MUTED, "solid")
        else:
            self.frame(x, y, GREEN if right else VERMILION, "solid" if right else (0, (3, 1.3)))
            self.badge(x + 0.02, y + 0.02, right)
        self.text(x + self.cell / 2, y + self.height + 0.09, caption, size=7.5, va="top", linespacing=1.15)

    def nothing(self, i: int, j: int) -> None:
        x, y = self.column(j), self.top + i * self.row_height
        self.axes.add_patch(
            Rectangle((x, y), self.cell, self.height, facecolor="#F7F8FA", edgecolor=FAINT, linewidth=1)
        )

    def image(self, x: float, y: float, image: Tensor) -> None:
        pixels = image.permute(1, 2, 0).cpu().numpy()
        extent = (x, x + self.cell, y + self.height, y)
        self.axes.imshow(pixels, extent=extent, aspect="auto", interpolation="lanczos", zorder=1)

    def frame(self, x: float, y: float, color: str, style: Any) -> None:
        pad = 0.012
        corner, size = (x - pad, y - pad), (self.cell + 2 * pad, self.height + 2 * pad)
        look = {"edgecolor": color, "linestyle": style, "linewidth": 2.2, "joinstyle": "miter"}
        self.axes.add_patch(Rectangle(corner, *size, fill=False, zorder=2, **look))

    def badge(self, x: float, y: float, right: bool) -> None:
        color = GREEN if right else VERMILION
        self.axes.add_patch(Circle((x, y), 0.15, facecolor=color, edgecolor="white", linewidth=1, zorder=3))
        tick = [[(-0.07, 0.0), (-0.02, 0.06), (0.075, -0.055)]]
        cross = [[(-0.055, -0.055), (0.055, 0.055)], [(-0.055, 0.055), (0.055, -0.055)]]
        for stroke in tick if right else cross:
            dx, dy = np.array(stroke).T
            line = Line2D(x + dx, y + dy, color="white", linewidth=1.6, solid_capstyle="round", zorder=4)
            self.axes.add_line(line)

    def text(self, x: float, y: float, text: str, **look: Any) -> None:
        defaults = {"size": 8.5, "color": MUTED, "ha": "center", "va": "center"}
        # parse_math off: names of files and datasets may contain a dollar sign.
        self.axes.text(x, y, text, parse_math=False, **(defaults | look))


def _spread(ap: npt.NDArray[np.float64], n: int) -> IntArray:
    """Indices of n values at even steps from the lowest to the highest; NaN values only if there are no others."""
    valid = np.flatnonzero(~np.isnan(ap))
    if not len(valid):
        return evenly(np.arange(len(ap)), n)
    return evenly(valid[np.argsort(ap[valid], kind="stable")], n)


def evenly(values: IntArray, n: int) -> IntArray:
    """At most n of the values at even steps, including the first and the last."""
    if len(values) <= n:
        return values
    return values[np.linspace(0, len(values) - 1, n).round().astype(np.int64)]


def similarities_of(q_features: Array, g_features: Array, matches: IntArray) -> npt.NDArray[np.float32]:
    """Dot products [n, k] of queries and their matches; undefined where a match is −1."""
    query = torch.as_tensor(q_features).detach().float().cpu()
    gallery = torch.as_tensor(g_features[np.maximum(matches, 0).ravel()]).detach().float().cpu()
    products: npt.NDArray[np.float32] = (query[:, None] * gallery.view(*matches.shape, -1)).sum(dim=2).numpy()
    return products


def _rows_of(blocks: DistanceBlocks, rows: IntArray) -> npt.NDArray[np.float32]:
    """Some rows of distances that come in blocks."""
    found: npt.NDArray[np.float32] | None = None
    for block, values in blocks:
        inside = np.flatnonzero((rows >= block.start) & (rows < block.stop))
        if found is None:
            found = np.empty((len(rows), values.shape[1]), dtype=np.float32)
        found[inside] = np.asarray(values)[rows[inside] - block.start]
    assert found is not None, "there are queries"
    return found


def _caption(query: ImageTable, row: int, ap: float) -> str:
    lines = []
    if query.pids[row] != UNKNOWN:
        lines.append(f"person {query.pids[row]}")
    lines += where_and_when(query, row)
    if not np.isnan(ap):
        lines.append(f"AP {100 * ap:.1f}")
    return "\n".join(lines) or f"row {row}"


def _match_captions(gallery: ImageTable, rows: IntArray) -> list[str]:
    """Camera and time of gallery images, a line for each part."""
    shown = gallery.take(rows)
    return ["\n".join(where_and_when(shown, i)) for i in range(len(rows))]


def _below(
    gallery_images: Sequence[Sequence[Tensor]],
    similarities: npt.NDArray[Any] | None,
    captions: Sequence[Sequence[str]] | None,
) -> list[list[str]]:
    """The text below each match: its similarity and its caption, as far as given."""
    texts = []
    for i, row in enumerate(gallery_images):
        scores = [""] * len(row) if similarities is None else [f"{similarities[i, j]:.2f}" for j in range(len(row))]
        parts = [""] * len(row) if captions is None else captions[i]
        texts.append(["\n".join(filter(None, pair)) for pair in zip(scores, parts, strict=True)])
    return texts


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    resized = F.interpolate(image[None].float(), (height, width), mode="bicubic", antialias=True)[0]
    return resized.round().clamp(0, 255).to(torch.uint8)
