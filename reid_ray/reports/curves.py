"""All metrics of a run in one figure: small panels over epochs or steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reid_ray.io.paths import Location
from reid_ray.reports.figures import INK, MUTED, SERIES, dress, new_figure, save
from reid_ray.reports.series import EpochRow, Event, epoch_rows, headline, number, steps

Points: TypeAlias = list[tuple[float, float]]

N_COLUMNS = 3
PANEL_INCHES = (4.3, 2.75)
MAX_POINTS = 300
"""Longer series are drawn as block means, to keep the panel readable."""
LOG_RANGE = 50.0
"""Ratio of the largest to the smallest value above which losses are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Panel:
    """One small plot.

    Attributes:
        title: quantity and unit.
        x_label: `epoch` or `step`.
        series: name → points (x, y) by x; empty series are not drawn.
        from_zero: y starts at 0, for quantities whose magnitude matters.
        mark: a point to ring, and its annotation.
        stacked: bars on top of each other in place of lines.
        may_be_log: use a logarithmic axis if values span a wide range.
        scientific: write y as 3.5e-04.
    """

    title: str
    x_label: str
    series: dict[str, Points]
    from_zero: bool = False
    mark: tuple[float, float, str] | None = None
    stacked: bool = False
    may_be_log: bool = False
    scientific: bool = False


def draw_curves(events: Sequence[Event], out: Location, *, title: str = "") -> None:
    """Draw all series of a run to one PNG; panels without data are left out, and every event is optional.

    Epoch n shows its training labels and the evaluation after it; epoch 0 is before training.

    Args:
        events: the lines of metrics.jsonl (see `reid_ray.reports.series`).
        out: the PNG to write.
        title: headline.
    """
    draw_panels(_panels(events), out, title=title)


def draw_panels(panels: Sequence[Panel], out: Location, *, title: str = "") -> None:
    """Draw panels in a grid to one PNG; those without data are left out."""
    panels = [panel for panel in panels if any(panel.series.values())]
    n_rows = max(1, -(-len(panels) // N_COLUMNS))
    n_columns = min(N_COLUMNS, max(len(panels), 1))
    panel_width, panel_height = PANEL_INCHES
    head = 0.55 if title else 0.1
    width, height = n_columns * panel_width, n_rows * panel_height + head
    figure = new_figure(width, height)
    figure.text(0.3 / width, 1 - 0.35 / height, title, size=14, weight="bold", color=INK, parse_math=False)
    if not panels:
        figure.text(0.5, 0.45, "Nothing has been logged yet.", size=12, color=MUTED, ha="center")
    for i, panel in enumerate(panels):
        row, column = divmod(i, n_columns)
        left, bottom = column * panel_width + 0.65, height - head - (row + 1) * panel_height + 0.6
        box = (left / width, bottom / height, (panel_width - 0.95) / width, (panel_height - 1.2) / height)
        _draw(figure.add_axes(box), panel)
    save(figure, out)


def _panels(events: Sequence[Event]) -> list[Panel]:
    rows, step_events, evaluation = epoch_rows(events), steps(events), headline(events).best
    best = next((row for row in rows if evaluation is not None and row.evaluation is evaluation), None)

    def per_epoch(part: str, key: str, factor: float = 1) -> Points:
        return _points(((row.position, number(getattr(row, part), key)) for row in rows), factor)

    def per_step(key: str) -> Points:
        return _points((event["global_step"], number(event, key)) for event in step_events)

    def per_step_term(name: str) -> Points:
        return _points((event["global_step"], number(_loss_terms(event), name)) for event in step_events)

    term_names = sorted({name for event in step_events for name in _loss_terms(event)})
    quality = {
        "ARI": "ari",
        "NMI": "nmi",
        "pairwise F1": "pairwise_f1",
        "label-free objective": "label_free",
        "cycle consistency": "cycle_consistency",
    }
    return [
        Panel(
            "Retrieval, %",
            "epoch",
            {key: per_epoch("evaluation", key, 100) for key in ("mAP", "R1")},
            mark=None if best is None else _best_mark(best),
        ),
        Panel(
            "Cycle consistency of training images, %",
            "epoch",
            {"after the epoch": per_epoch("evaluation", "cycle_consistency", 100)},
        ),
        Panel(
            "Label quality",
            "epoch",
            {name: per_epoch("refresh", key) for name, key in quality.items()},
        ),
        Panel("Clusters", "epoch", {"clusters": per_epoch("refresh", "n_clusters")}, from_zero=True),
        Panel(
            "Outliers, % of images",
            "epoch",
            {"outliers": per_epoch("refresh", "outlier_share", 100)},
            from_zero=True,
        ),
        Panel(
            "Loss",
            "step",
            {"total": per_step("loss")} | {name: per_step_term(name) for name in term_names},
            may_be_log=True,
        ),
        Panel(
            "Distance of teacher and student",
            "epoch",
            {"relative distance": per_epoch("training", "teacher_distance")},
            from_zero=True,
        ),
        Panel("Learning rate", "step", {"learning rate": per_step("lr")}, from_zero=True, scientific=True),
        Panel(
            "Seconds per epoch",
            "epoch",
            {
                name: [(row.position, row.seconds_per_part()[name]) for row in rows if name in row.seconds_per_part()]
                for name in ("extract", "label", "train", "evaluate")
            },
            stacked=True,
        ),
        Panel(
            "Training, images per second",
            "epoch",
            {"images/s": per_epoch("training", "images_per_second")},
            from_zero=True,
        ),
    ]


def _points(pairs: Iterable[tuple[float, float | None]], factor: float = 1) -> Points:
    return [(float(x), factor * y) for x, y in pairs if y is not None]


def _loss_terms(event: Event) -> Event:
    terms = event.get("terms")
    return terms if isinstance(terms, Mapping) else {}


def _best_mark(best: EpochRow) -> tuple[float, float, str]:
    value = 100 * (number(best.evaluation, "mAP") or 0)
    return best.position, value, f"best mAP {value:.1f}"


def _draw(axes: Any, panel: Panel) -> None:
    _dress(axes, panel)
    series = {name: points for name, points in panel.series.items() if points}
    (_bars if panel.stacked else _lines)(axes, series)
    x = {x for points in series.values() for x, _ in points}
    if len(x) == 1:
        axes.set_xlim(min(x) - 1, max(x) + 1)
    if panel.mark is not None:
        _ring(axes, *panel.mark)
    values = [y for points in series.values() for _, y in points]
    if panel.may_be_log and min(values) > 0 and max(values) > LOG_RANGE * min(values):
        axes.set_yscale("log")
    elif panel.from_zero:
        axes.set_ylim(0, 1.08 * max(values) or 1)
    if len(series) > 1:
        # The legend is above the plot, so that it does not cover a curve; many names would not fit.
        fits = len(series) <= len(SERIES)
        axes.legend(
            loc="lower left" if fits else "best",
            bbox_to_anchor=(-0.03, 0.97) if fits else None,
            ncols=len(series) if fits else 2,
            fontsize=7.5,
            frameon=False,
            labelcolor=INK,
            handlelength=1.1,
            handletextpad=0.4,
            columnspacing=0.9,
        )


def _dress(axes: Any, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=19)
    axes.set_xlabel(panel.x_label, fontsize=8.5, color=MUTED, labelpad=3)
    dress(axes, grid="y")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    if panel.scientific:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1e}" if value else "0"))


def _lines(axes: Any, series: dict[str, Points]) -> None:
    for i, (name, points) in enumerate(series.items()):
        x, y = _thinned(points)
        marker = "o" if len(x) <= 40 else None
        look = {"color": SERIES[i % len(SERIES)], "linestyle": "-" if i < len(SERIES) else "--"}
        axes.plot(x, y, label=name, linewidth=1.6, marker=marker, markersize=3, **look)


def _bars(axes: Any, series: dict[str, Points]) -> None:
    epochs = sorted({x for points in series.values() for x, _ in points})
    floor = np.zeros(len(epochs))
    for i, (name, points) in enumerate(series.items()):
        by_epoch = dict(points)
        heights = np.array([by_epoch.get(epoch, 0.0) for epoch in epochs])
        axes.bar(epochs, heights, bottom=floor, width=0.75, label=name, color=SERIES[i % len(SERIES)])
        floor += heights


def _ring(axes: Any, x: float, y: float, text: str) -> None:
    axes.plot([x], [y], "o", markersize=8, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.1)
    # Towards the middle of the panel, where there is space.
    low, high = axes.get_xlim()
    to_the_left = x > (low + high) / 2
    axes.annotate(
        text,
        (x, y),
        xytext=(-2 if to_the_left else 2, -14),
        textcoords="offset points",
        ha="right" if to_the_left else "left",
        fontsize=8,
        color=INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )


def _thinned(points: Points) -> tuple[Any, Any]:
    """x and y [≤ 300]: the points, or means of equal blocks of them."""
    xy = np.array(points)
    if len(xy) > MAX_POINTS:
        xy = np.stack([block.mean(axis=0) for block in np.array_split(xy, MAX_POINTS)])
    return xy[:, 0], xy[:, 1]
