"""Figures and report of a run, from its directory."""

from __future__ import annotations

from collections.abc import Callable

from reid_ray.config import Config, dump_config
from reid_ray.data.images import Dataset
from reid_ray.evaluation.protocols import protocol_of, why_not
from reid_ray.evaluation.ranking import DistanceBlocks
from reid_ray.io.paths import Location
from reid_ray.reports.curves import draw_curves
from reid_ray.reports.film import FRAME_WIDTH, N_FRAMES, film_strips
from reid_ray.reports.generated import generated_pictures, redraw_generated
from reid_ray.reports.html import write_report
from reid_ray.reports.label_flow import draw_flow
from reid_ray.reports.ranked import draw_ranking
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
    return write_report(run.path, events, dump_config(run.config), images, out)


def rank_run(run: Run, out: Location | None = None, *, n: int = 8, k: int = 10) -> Location | None:
    """Draw the ranked gallery of the run's own query and gallery; None without them."""
    dataset, settings = run.dataset, run.config.evaluation
    if not len(dataset.query) or not len(dataset.gallery):
        return None
    out = out or run.path / "ranked.png"
    note = "" if why_not(dataset.table, settings) is None else " (identities unknown)"
    features = run.embed_table(query_and_gallery(dataset.table, settings))
    title = f"{run.config.name}: queries from the worst to the best{note}"
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
    width = max(1, round(height * config.data.width / config.data.height))
    table = query_and_gallery(dataset.table, settings)
    query, gallery, _ = compared_items(features, table, settings)
    shown, cell = dataset, 1.0
    if protocol_of(settings).unit == "tracklet":
        shown, strips = film_strips(Dataset(table, dataset.images), height=height, width=width)
        height, width = strips.size
        cell = N_FRAMES * FRAME_WIDTH
    distances = None if rerank is None else rerank(query, gallery)
    draw_ranking(
        shown,
        query,
        gallery,
        out,
        distances=distances,
        n=n,
        k=k,
        height=height,
        width=width,
        title=title,
        cell=cell,
    )
