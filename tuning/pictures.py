"""Plots of a search: history, importance of keys, parallel coordinates of all trials, eps against k1."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import pvariance
from typing import Any

import optuna
from matplotlib import colormaps
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator

from reid_ray.config import Search
from reid_ray.reports.figures import BLUE, FAINT, INK, MUTED, VERMILION, dress, new_figure, save
from reid_ray.tuning.request import METRICS
from reid_ray.tuning.results import Results
from reid_ray.tuning.spaces import Space, Value
from reid_ray.tuning.study import Row

MIN_TRIALS = 5
"""Minimum number of trials for an estimate of importance."""

COLOURS = colormaps["viridis"]


def draw_search(results: Results, folder: Path) -> dict[str, Path]:
    """Draw all plots of a search that have data; returns heading → file, in order."""
    rows = [row for row in results.rows if row.scores]
    space, name = results.request.space, METRICS[results.request.objectives[0]]
    found: dict[str, Path] = {}
    if rows:
        found["History"] = draw_history(results.rows, name, folder / "history.png")
    if (weights := importance(rows, space)) is not None:
        found["Importance of keys"] = draw_importance(weights, folder / "importance.png")
    if len(rows) > 1:
        found["All trials"] = draw_parallel(rows, space, name, folder / "parallel.png")
        if {"labels.eps", "labels.k1"} <= set(rows[0].point):
            found["eps and k1"] = draw_map(rows, name, folder / "eps-k1.png")
    return found


def importance(rows: Sequence[Row], space: Space) -> dict[str, float] | None:
    """Share of each key in the variance of the first objective (fANOVA), largest first; None with too few trials."""
    scored = [row for row in rows if row.scores]
    if len(scored) < MIN_TRIALS or len(space) < 2 or not pvariance(row.scores[0] for row in scored):
        return None
    distributions = {key: _distribution(search) for key, search in space.items()}
    study = optuna.create_study(direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in scored:
            values = {key: row.values[key] for key in space}
            study.add_trial(optuna.trial.create_trial(params=values, distributions=distributions, value=row.scores[0]))
        return optuna.importance.get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def draw_history(rows: Sequence[Row], name: str, out: Path) -> Path:
    """Score of each trial by number, and the best so far."""
    scored = [row for row in rows if row.scores]
    axes, figure = _panel(7.5, 3.6, name)
    whole = [row for row in scored if row.state == "complete"]
    ended = [row for row in scored if row.state != "complete"]
    axes.plot([row.number for row in whole], [row.scores[0] for row in whole], "o", color=BLUE, markersize=5)
    if ended:
        axes.plot([row.number for row in ended], [row.scores[0] for row in ended], "x", color=MUTED, markersize=5)
    best = [max(row.scores[0] for row in scored[: i + 1]) for i in range(len(scored))]
    axes.step([row.number for row in scored], best, where="post", color=VERMILION, linewidth=1.5)
    axes.set_xlabel("trial (crosses: stopped, degenerate or diverged; line: best so far)", fontsize=8.5, color=MUTED)
    save(figure, out)
    return out


def draw_importance(weights: dict[str, float], out: Path) -> Path:
    """One bar per key, the most important on top."""
    names = list(weights)[::-1]
    figure = new_figure(7.5, 0.9 + 0.3 * len(names))
    axes = figure.add_axes((0.3, 0.5 / (0.9 + 0.3 * len(names)), 0.65, 1 - 0.7 / (0.9 + 0.3 * len(names))))
    axes.barh(names, [weights[name] for name in names], color=BLUE, height=0.6)
    dress(axes)
    axes.set_xlabel("share of the score's variance (fANOVA)", fontsize=8.5, color=MUTED)
    save(figure, out)
    return out


def draw_parallel(rows: Sequence[Row], space: Space, name: str, out: Path) -> Path:
    """Parallel coordinates: one line per trial; better trials are brighter and in front."""
    keys = list(space)
    axes, figure = _panel(max(7.5, 1.05 * (len(keys) + 1)), 4.2, "")
    low, high = _span([row.scores[0] for row in rows])
    for row in sorted(rows, key=lambda row: row.scores[0]):
        share = (row.scores[0] - low) / (high - low)
        heights = [*(_height(row.values[key], space[key]) for key in keys), share]
        axes.plot(range(len(keys) + 1), heights, color=COLOURS(share), linewidth=1 + 1.5 * share, alpha=0.8)
    ends = [*(_ends(space[key]) for key in keys), (f"{low:.3g}", f"{high:.3g}")]
    for x, (bottom, top) in enumerate(ends):
        axes.axvline(x, color=FAINT, linewidth=0.8, zorder=0)
        for y, text, above in ((0, bottom, "top"), (1, top, "bottom")):
            axes.text(x, y + (0.02 if y else -0.02), text, ha="center", va=above, fontsize=7.5, color=MUTED)
    labels = [key.rpartition(".")[2].replace("_", "\n") for key in keys] + [name]
    axes.set_xticks(range(len(labels)), labels, fontsize=8, color=INK)
    axes.set_yticks([])
    axes.set_ylim(-0.1, 1.1)
    axes.grid(visible=False)
    save(figure, out)
    return out


def draw_map(rows: Sequence[Row], name: str, out: Path) -> Path:
    """eps against k1, coloured by score; both are the values with which the labels were scored."""
    axes, figure = _panel(6.2, 4.2, "k1")
    ordered = sorted(rows, key=lambda row: row.scores[0])
    low, high = _span([row.scores[0] for row in rows])
    dots = axes.scatter(
        [row.point["labels.eps"] for row in ordered],
        [row.point["labels.k1"] for row in ordered],
        c=[row.scores[0] for row in ordered],
        vmin=low,
        vmax=high,
        cmap="viridis",
        s=55,
        edgecolors="white",
        linewidths=0.6,
    )
    axes.set_xlabel("eps", fontsize=8.5, color=MUTED)
    bar = figure.colorbar(dots, ax=axes)
    bar.set_label(name, fontsize=8.5, color=MUTED)
    bar.ax.tick_params(labelsize=8, colors=MUTED, length=0)
    save(figure, out)
    return out


def _distribution(search: Search) -> BaseDistribution:
    if search.choices:
        return CategoricalDistribution(search.choices)
    if isinstance(search.low, int) and isinstance(search.high, int):
        return IntDistribution(search.low, search.high, log=search.log)
    return FloatDistribution(search.low, search.high, log=search.log)


def _height(value: Value, search: Search) -> float:
    """Position of a value in its range, 0 … 1."""
    if search.choices:
        return search.choices.index(value) / max(1, len(search.choices) - 1)
    ends = (search.low, search.high, float(value or 0))
    low, high, at = (math.log(end) for end in ends) if search.log else ends
    return (at - low) / (high - low)


def _ends(search: Search) -> tuple[str, str]:
    if search.choices:
        return str(search.choices[0]), str(search.choices[-1])
    return f"{search.low:g}", f"{search.high:g}"


def _span(scores: Sequence[float]) -> tuple[float, float]:
    low, high = min(scores), max(scores)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _panel(width: float, height: float, label: str) -> tuple[Any, Any]:
    figure = new_figure(width, height)
    axes = figure.add_axes((0.8 / width, 0.65 / height, (width - 1.1) / width, (height - 0.95) / height))
    dress(axes)
    axes.set_ylabel(label, fontsize=8.5, color=MUTED)
    return axes, figure
