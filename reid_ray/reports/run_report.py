"""Figures and report of a run, from its directory."""

from __future__ import annotations

from collections.abc import Callable

from reid_ray.config import Config, dump_config
from reid_ray.data.images import Dataset
from reid_ray.errors import UserError
from reid_ray.evaluation.protocols import why_not
from reid_ray.evaluation.ranking import DistanceBlocks
from reid_ray.io.paths import Location
from reid_ray.reports.curves import draw_curves
from reid_ray.reports.film import compared_images
from reid_ray.reports.generated import generated_pictures, redraw_generated
from reid_ray.reports.html import write_report
from reid_ray.reports.label_flow import draw_flow
from reid_ray.reports.page import note
from reid_ray.reports.ranked import draw_ranking
from reid_ray.reports.ranked_rows import hardest_queries, ranked_run, ranked_style
from reid_ray.reports.rankings import rank_run_queries, write_rankings
from reid_ray.run import Run
from reid_ray.training.datasets import query_and_gallery
from reid_ray.training.services import compared_items
from reid_ray.types import FloatArray

FEATURES_NAME = "features.png"
SIMILARITIES_NAME = "similarities.png"


def report_run(run: Run, *, redraw: bool = True, out: Location | None = None) -> Location:
    """Draw `curves.png` and `labels.png` and write `report.html` into the run directory, also for an unfinished run.

    Args:
        redraw: draw generated images again, from the newest checkpoint; otherwise the report shows those that the run
            has written.
        out: folder to draw and write to; default the run's.
    """
    folder = out or run.path
    curves, ranked, flow = folder / "curves.png", run.path / "ranked.png", folder / "labels.png"
    events = run.metrics()
    draw_curves(events, curves)
    draw_flow([run.labels(epoch)["label"].to_numpy() for epoch in range(run.n_label_epochs)], flow)
    if redraw:
        redraw_generated(run)
    images = {
        "Curves": curves,
        "Labels from epoch to epoch": flow,
        **generated_pictures(run),
        "Ranked gallery": ranked,
        "Similarities of training images": run.path / SIMILARITIES_NAME,
        "Features": run.path / FEATURES_NAME,
    }
    hardest = _hardest(run)
    config = dump_config(run.config)
    return write_report(run.path, events, config, images, out, hardest=hardest, style=ranked_style())


def _hardest(run: Run) -> str:
    """The section of the hardest queries, if the run has been ranked; it needs the images, the rest of a report not."""
    try:
        ranked = ranked_run(run, run.path.name)
    except UserError as error:
        return note("Hardest queries", f"They cannot be shown: {error}")
    return "" if ranked is None else hardest_queries(ranked)


def rank_run(run: Run, out: Location | None = None, *, n: int = 8, k: int = 10) -> Location | None:
    """Draw the ranked gallery of the run's own query and gallery, and store its rankings; None without them."""
    dataset, settings = run.dataset, run.config.evaluation
    if not len(dataset.query) or not len(dataset.gallery):
        return None
    out = out or run.path / "ranked.png"
    remark = "" if why_not(dataset.table, settings) is None else " (identities unknown)"
    features = run.embed_table(query_and_gallery(dataset.table, settings))
    write_rankings(run, rank_run_queries(run, features))
    title = f"{run.config.name}: queries from the worst to the best{remark}"
    draw_compared(dataset, features, out, run.config, n=n, k=k, height=256, title=title)
    return out


def draw_compared(
    dataset: Dataset,
    features: FloatArray,
    out: Location,
    config: Config,
    *,
    n: int,
    k: int,
    height: int,
    title: str | None = None,
    rerank: Callable[[FloatArray, FloatArray], DistanceBlocks] | None = None,
) -> None:
    """Draw rankings of the items that the protocol compares: images, or tracklets as film strips.

    Args:
        dataset: with query and gallery splits.
        features: [N, D] of query images followed by gallery images.
        config: sets the protocol and the shape of images.
        n, k: number of queries, and of matches per query.
        height: height of the crops as drawn, pixels.
        rerank: features of query and gallery → distances by which to rank.
    """
    settings = config.evaluation
    query, gallery, _ = compared_items(features, query_and_gallery(dataset.table, settings), settings)
    shown = compared_images(dataset, config, height)
    draw_ranking(
        shown.dataset,
        query,
        gallery,
        out,
        distances=None if rerank is None else rerank(query, gallery),
        n=n,
        k=k,
        height=shown.height,
        width=shown.width,
        title=title,
        cell=shown.cell,
    )
