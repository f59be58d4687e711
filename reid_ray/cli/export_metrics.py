"""`reid-ray track`: show runs in TensorBoard or MLflow, from their directories alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from reid_ray.cli.progress import make_console
from reid_ray.cli.train import EXIT_INTERRUPTED

# Runs bring PyTorch with them, so they are imported where they are used: --help should not wait for it.
if TYPE_CHECKING:
    from rich.console import Console

    from reid_ray.reports.tracking import Feed

SECONDS_BETWEEN_LOOKS = 5.0

app = typer.Typer()


@app.command(
    epilog="Examples:  reid-ray track runs/ice --to tensorboard   |   "
    "reid-ray track runs/ice runs/abmt --to mlflow --out http://localhost:5000"
)
def track(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Run directories, finished or running.", show_default=False)
    ],
    to: Annotated[str, typer.Option(metavar="tensorboard|mlflow", help="What to show them in.", show_default=False)],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER|URI",
            help="TensorBoard: a folder, for one of each run's name in it. Default: 'tensorboard' in the run's own. "
            "MLflow: the tracking URI. Default: MLFLOW_TRACKING_URI, or what MLflow takes without it.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Go on until all of the runs are finished, or Ctrl-C.")
    ] = True,
) -> None:
    """Show runs in TensorBoard or MLflow: what is logged so far, and what comes. Training knows nothing of it.

    The same command again neither doubles nor loses a point.
    """
    from reid_ray.reports.trackers import make_trackers
    from reid_ray.reports.tracking import Feed
    from reid_ray.run import load_run

    opened = [load_run(path) for path in runs]
    feeds = [Feed(run, tracker) for run, tracker in zip(opened, make_trackers(opened, to, out), strict=True)]
    console = make_console()
    try:
        for feed in feeds:
            feed.look()
            _tell(feed, console)
        _follow([feed for feed in feeds if follow and not feed.finished], console)
    except KeyboardInterrupt:
        console.print("No longer following; the runs go on. The same command shows them again.")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _follow(feeds: list[Feed], console: Console) -> None:
    """Look again and again, until all of the runs are finished."""
    if feeds:
        console.print(f"Following {len(feeds)} of the runs, until Ctrl-C or their end.")
    while feeds:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        for feed in feeds:
            feed.look()
            if feed.finished:
                _tell(feed, console)
        feeds = [feed for feed in feeds if not feed.finished]


def _tell(feed: Feed, console: Console) -> None:
    state = "finished" if feed.finished else "so far"
    text = f"{feed.run.config.name}, {state}: {feed.n_points} points in {feed.tracker.where}"
    console.print(text, highlight=False, soft_wrap=True, markup=False)
