"""`reid-ray export-metrics`: export the metrics of runs to TensorBoard or MLflow. Reads the run directories only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from reid_ray.cli.exit_codes import EXIT_INTERRUPTED
from reid_ray.cli.progress import make_console

# Runs import PyTorch, so import them where they are used: --help should not wait for it.
if TYPE_CHECKING:
    from rich.console import Console

    from reid_ray.reports.tracking import Feed

POLL_SECONDS = 5.0

app = typer.Typer()


@app.command(
    "export-metrics",
    epilog="Examples:  reid-ray export-metrics runs/ice --to tensorboard   |   "
    "reid-ray export-metrics runs/ice runs/abmt --to mlflow --out http://localhost:5000",
)
def export_metrics(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Run directories, finished or running.", show_default=False)
    ],
    to: Annotated[
        str, typer.Option(metavar="tensorboard|mlflow", help="Where to export the metrics.", show_default=False)
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER|URI",
            help="TensorBoard: a folder with a subfolder per run. Default: 'tensorboard' in the run directory. "
            "MLflow: the tracking URI. Default: MLFLOW_TRACKING_URI, or MLflow's own default.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Keep exporting until all runs are finished, or until Ctrl-C.")
    ] = True,
) -> None:
    """Export the metrics of runs to TensorBoard or MLflow: what is logged so far, then new points as they arrive.

    Training is not affected. Rerunning the command neither duplicates nor loses points.
    """
    from reid_ray.reports.trackers import make_trackers
    from reid_ray.reports.tracking import Feed
    from reid_ray.run import load_run

    opened = [load_run(path) for path in runs]
    feeds = [Feed(run, tracker) for run, tracker in zip(opened, make_trackers(opened, to, out), strict=True)]
    console = make_console()
    try:
        for feed in feeds:
            feed.update()
            _print_state(feed, console)
        _follow([feed for feed in feeds if follow and not feed.finished], console)
    except KeyboardInterrupt:
        console.print("Stopped following; the runs continue. Rerun the same command to resume the export.")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _follow(feeds: list[Feed], console: Console) -> None:
    """Poll until all runs are finished."""
    if feeds:
        console.print(f"Following {len(feeds)} unfinished runs until they end; press Ctrl-C to stop.")
    while feeds:
        time.sleep(POLL_SECONDS)
        for feed in feeds:
            feed.update()
            if feed.finished:
                _print_state(feed, console)
        feeds = [feed for feed in feeds if not feed.finished]


def _print_state(feed: Feed, console: Console) -> None:
    state = "finished" if feed.finished else "so far"
    text = f"{feed.run.config.name}, {state}: {feed.n_points} points in {feed.tracker.where}"
    console.print(text, highlight=False, soft_wrap=True, markup=False)
