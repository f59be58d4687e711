"""Figures and report of a run, from its directory."""

from __future__ import annotations

from reid_ray.config import dump_config
from reid_ray.evaluation.protocols import evaluable
from reid_ray.io.paths import Location
from reid_ray.reports.curves import draw_curves
from reid_ray.reports.generated import generated_pictures, redraw_generated
from reid_ray.reports.html import write_report
from reid_ray.reports.ranked import draw_ranking
from reid_ray.run import Run


def report_run(run: Run, *, redraw: bool = True) -> Location:
    """Draw `curves.png` and write `report.html` into the run directory, also for an unfinished run.

    Args:
        redraw: draw generated images again, from the newest checkpoint; otherwise the report shows those that the run
            has written.
    """
    curves, ranked = run.path / "curves.png", run.path / "ranked.png"
    events = run.metrics()
    draw_curves(events, curves)
    if redraw:
        redraw_generated(run)
    images = {"Curves": curves, **generated_pictures(run), "Ranked gallery": ranked}
    return write_report(run.path, events, dump_config(run.config), images)


def rank_run(run: Run, out: Location | None = None, *, n: int = 8, k: int = 10) -> Location | None:
    """Draw the ranked gallery of the run's own query and gallery; None without them."""
    dataset = run.dataset
    if not len(dataset.query) or not len(dataset.gallery):
        return None
    out = out or run.path / "ranked.png"
    note = "" if evaluable(dataset.table) is None else " (identities unknown)"
    draw_ranking(
        dataset,
        run.embed_table(dataset.query),
        run.embed_table(dataset.gallery),
        out,
        n=n,
        k=k,
        title=f"{run.config.name}: queries from the worst to the best{note}",
    )
    return out
