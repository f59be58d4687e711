"""Reports of a run: curves, ranked galleries, the HTML report and the console table."""

from reid_ray.reports.console import epoch_table
from reid_ray.reports.curves import draw_curves
from reid_ray.reports.html import write_report
from reid_ray.reports.ranked import draw_ranking, ranked_sheet

__all__ = ["draw_curves", "draw_ranking", "epoch_table", "ranked_sheet", "write_report"]
