"""`reid-ray demo`, `train` and `report`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from reid_ray.cli.exit_codes import EXIT_INTERRUPTED
from reid_ray.cli.progress import RunProgress, counting, embed_with_progress, make_console
from reid_ray.config import Config, config_hash, dump_config, load_config, recipe_names, with_absolute_paths
from reid_ray.errors import ConfigError, UserError

if TYPE_CHECKING:
    from reid_ray.io.paths import Location
    from reid_ray.run import Run

app = typer.Typer()

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings to override, such as training.epochs=10 or data.root=FOLDER (see docs/configuration.md).",
    ),
]


@app.command(
    epilog="Examples:  reid-ray train ice data.root=Market-1501-v15.09.15   |   "
    "reid-ray train ice-agnostic data.layout=folder data.root=crops runtime.backend=inline"
)
def train(
    recipe: Annotated[
        str,
        typer.Argument(help=f"A recipe ({', '.join(recipe_names())}), or a YAML file such as a run's config.yaml."),
    ],
    overrides: Overrides = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the resolved configuration and its hash, and exit.")
    ] = False,
) -> None:
    """Train a model. Rerun the same command to resume an interrupted run, even mid-epoch.

    Writes a run directory OUTPUT/NAME with the configuration, metrics.jsonl, the labels of each epoch,
    checkpoints, curves and report.html.
    """
    config = with_absolute_paths(load_config(recipe, overrides or []))
    console = make_console()
    if show_config:
        console.print(f"# config hash: {config_hash(config)}\n{dump_config(config)}", highlight=False)
        return
    run = train_with_progress(config, console)
    if is_main_process():
        finish(run, console)


@app.command()
def demo(overrides: Overrides = None) -> None:
    """Train ICE without labels on synthetic pedestrians, on Ray, in a few minutes. No download."""
    from reid_ray.reports.run_report import rank_run

    console = make_console()
    run = train_with_progress(load_config("demo", overrides or []), console)
    if not any("mAP" in event for event in run.metrics("evaluate")):
        finish(run, console)
        return
    with console.status("Colour-histogram baseline and ranked sheet"):
        comparison = comparison_table(run)
        rank_run(run)  # before the report, which shows it
    finish(run, console)
    console.print(comparison)
    console.print(f"Ranked gallery: {run.path / 'ranked.png'}")


def comparison_table(run: Run) -> Table:
    """Metrics of a colour histogram, of the network at the start (if evaluated), and at the end."""
    from reid_ray.evaluation.baselines import histogram_metrics

    evaluations = run.metrics("evaluate")
    rows = [("colour histogram", histogram_metrics(run.dataset, run.config.evaluation.ap).as_dict())]
    rows += [("network at the start", metrics) for metrics in evaluations if metrics["epoch"] == 0]
    rows += [("network at the end", evaluations[-1])]
    table = Table("", "mAP", "R1", title="Retrieval of people never seen in training")
    for name, metrics in rows:
        table.add_row(name, f"{metrics['mAP']:.1%}", f"{metrics['R1']:.1%}")
    return table


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Directory of a run or a search, finished or not; several to compare."),
    ],
    features: Annotated[
        bool, typer.Option("--features", help="Also draw t-SNE of the features of test images, by identity and camera.")
    ] = False,
    gallery: Annotated[
        bool,
        typer.Option(
            "--gallery",
            help="Also write RUN/gallery/index.html: the clusters of the last epoch, by what needs a look, and marks "
            "for corrections. Extracts features of the training images.",
        ),
    ] = False,
    ranked: Annotated[
        bool,
        typer.Option(
            "--ranked",
            help="Also rank query and gallery: the page then shows the hardest queries of a run, or the same queries "
            "in several runs. Extracts features, once per model.",
        ),
    ] = False,
    epoch: Annotated[
        int | None, typer.Option(min=1, help="With --gallery: the epoch whose labels are shown. Default: the last.")
    ] = None,
) -> None:
    """Plot a run or a search, and write its report.html. Several runs: write comparison.html in this folder."""
    if len(runs) > 1:
        if features or gallery:
            raise ConfigError("--features and --gallery are for one run.")
        from reid_ray.reports.compare import compare_runs
        from reid_ray.run import load_run

        compared = [load_run(each) for each in runs]
        for each in compared if ranked else ():
            _rank(each)
        make_console().print(f"Comparison: {compare_runs(compared, Path.cwd())}")
        return
    (run,) = runs
    if (Path(run).expanduser() / "search.yaml").is_file():
        from reid_ray.tuning.report import report_search

        page: Location = report_search(Path(run).expanduser())
    else:
        from reid_ray.reports.run_report import FEATURES_NAME, report_run
        from reid_ray.run import load_run

        opened = load_run(run)
        if features:
            from reid_ray.reports.embedding import draw_features

            draw_features(opened, opened.path / FEATURES_NAME)
        if gallery:
            make_console().print(f"Gallery: {_write_gallery(opened, epoch)}", soft_wrap=True, markup=False)
        if ranked:
            _rank(opened)
        page = report_run(opened)
    make_console().print(f"Report: {page}")


@app.command(epilog="Example:  reid-ray watch runs/ice")
def watch(
    run: Annotated[str, typer.Argument(help="A run directory, on this machine or in an object store.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8300,
) -> None:
    """Serve the report of a running run on this machine, always up to date. Ctrl-C ends it."""
    from tempfile import TemporaryDirectory

    from reid_ray.reports.live import LiveReport, make_server
    from reid_ray.run import load_run

    opened = load_run(run)
    with TemporaryDirectory(prefix="reid-ray-watch-") as folder:
        try:
            server = make_server(LiveReport(opened, Path(folder)), port)
        except OSError as error:
            raise ConfigError(f"Port {port} cannot be used ({error.strerror}); choose another --port.") from error
        with server:
            console = make_console()
            console.print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends it)", highlight=False)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                console.print("Ended.")


def _rank(run: Run) -> None:
    """Store the rankings of a run's queries, with progress, unless those of its last model are stored."""
    from reid_ray.reports.rankings import is_current, rank_run_queries, stored_rankings, table_to_rank, write_rankings

    found = stored_rankings(run)
    if found is None or not is_current(run, found):
        features = embed_with_progress(run, table_to_rank(run), run.dataset, make_console(stderr=True))
        write_rankings(run, rank_run_queries(run, features))


def _write_gallery(run: Run, epoch: int | None) -> Location:
    """The cluster gallery of a run, with progress."""
    from reid_ray.galleries import gallery_of_run

    console = make_console(stderr=True)
    table = run.dataset.train
    features = embed_with_progress(run, table, run.dataset, console)
    with counting(console, "Thumbnails", len(table)) as bars:
        return gallery_of_run(run, features, epoch=epoch, on_images=lambda n: bars.advance(bars.task_ids[0], n))


def train_with_progress(config: Config, console: Console) -> Run:
    """`reid_ray.train` with a progress display."""
    from reid_ray.api import train as train_run

    try:
        if not is_main_process():
            return train_run(config)
        with RunProgress(console) as progress:
            return train_run(config, listener=progress)
    except KeyboardInterrupt:
        if is_main_process():
            console.print("Interrupted. Rerun the same command to resume from the last checkpoint.")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def is_main_process() -> bool:
    """Whether this process prints; `torchrun` starts several."""
    return os.environ.get("RANK", "0") == "0"


def finish(run: Run, console: Console) -> None:
    """Print the epochs of a finished run and notes on its evaluation, and write the report."""
    from reid_ray.evaluation.protocols import evaluation_note, why_not
    from reid_ray.reports import epoch_table
    from reid_ray.reports.run_report import report_run

    console.print(epoch_table(run.metrics()))
    table, settings = run.dataset.table, run.config.evaluation
    note = why_not(table, settings) or evaluation_note(table, settings)
    if note:
        console.print(note, highlight=False)
    try:
        console.print(f"Report: {report_run(run, redraw=False)}")
    except (UserError, OSError) as error:  # the model exists anyway
        console.print(f"No report: {error}", highlight=False, markup=False)
    console.print(f"Model:  {run.directory.model_file('last')}")
