"""Shared by all figures: the palette, and figures without pyplot's global state."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reid_ray.io.files import atomic_write
from reid_ray.io.paths import Location

# The palette of Okabe and Ito, distinguishable with any colour vision.
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILION = "#D55E00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
SERIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)

INK = "#1F2430"
MUTED = "#6B7280"
FAINT = "#E5E7EB"

DPI = 150


def new_figure(width: float, height: float) -> Any:
    """A white figure of width × height inches, drawn by Agg."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Any, *, grid: str = "both") -> None:
    """Style axes: a faint grid ("both", "x" or "y") behind the data, and only the bottom spine."""
    axes.tick_params(which="both", labelsize=8, colors=MUTED, length=0)
    axes.grid(axis=grid, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)


def save(figure: Any, out: Location) -> None:
    """Write a PNG atomically: reports of running runs are read while they are written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        figure.savefig(file, format="png")
