"""Reports of a run: curves, ranked galleries, the HTML report and the console table."""

from reid_ray.reports.console import epoch_table
from reid_ray.reports.curves import draw_curves
from reid_ray.reports.html import write_report
from reid_ray.reports.ranked import draw_ranked_grid, draw_ranking

__all__ = ["draw_curves", "draw_ranked_grid", "draw_ranking", "epoch_table", "write_report"]
