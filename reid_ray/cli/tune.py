"""`reid-ray tune`: search for settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from reid_ray.cli.exit_codes import EXIT_INTERRUPTED
from reid_ray.cli.progress import make_console
from reid_ray.cli.train import Overrides
from reid_ray.config import load_config, recipe_names

# Searches import PyTorch, Ray and Optuna, so import them where they are used.
if TYPE_CHECKING:
    from reid_ray.tuning.results import Repeated, Results

app = typer.Typer()

DEFAULT_TRIALS = 20
N_SHOWN = 10
"""Number of trials in the final table."""


@app.command(
    epilog="Examples:  reid-ray tune ice data.layout=folder data.root=crops --trials 30   |   "
    "reid-ray tune ice data.root=FOLDER --objective map --search labels.eps --search labels.k1=20,30 "
    "--search method.temperature_hard=.05:.3:log --hours 12 --top 3 --seeds 2   |   "
    "reid-ray tune ice data.root=FOLDER --objective label-free --objective hours --search model.pooling=avg,gem   |   "
    "reid-ray tune ice data.root=FOLDER --sweep eps=.4:.7:.05 --sweep k1=20,30"
)
def tune(
    recipe: Annotated[
        str, typer.Argument(help=f"A recipe ({', '.join(recipe_names())}), or a YAML file; the first trial.")
    ],
    overrides: Overrides = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            "-s",
            metavar="KEY[=LOW:HIGH[:log]|=A,B,…]",
            help="Key to vary, in its default range (docs/configuration.md) or in this one; may be repeated. "
            "Default: the temperatures, weights and label settings that the recipe uses.",
        ),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="'label-free' (default; needs no identities), or 'map' on held-out identities of the training split "
            "(data.holdout). 'hours' (of GPUs, else CPUs) may be the second."
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help=f"Total trials. Default: {DEFAULT_TRIALS}, or as many as --hours allow.")
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0.001, help="Total search time in hours.")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Concurrent trials. Default: as many as fit.")] = None,
    stop_early: Annotated[
        Literal["auto", "yes", "no"],
        typer.Option(help="Stop trials that fall behind (ASHA). auto: with --objective map and 10 epochs or more."),
    ] = "auto",
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=START:STOP:STEP|A,B,…",
            help="Score these label settings on the features of each trained model; the best one counts.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="With --seeds: number of best trials to repeat.")] = 3,
    seeds: Annotated[int, typer.Option(min=0, help="More seeds for the best trials; the best mean wins.")] = 0,
    compare: Annotated[
        int, typer.Option(min=0, help="New seeds with which winner and recipe are compared on the test split.")
    ] = 0,
    name: Annotated[str | None, typer.Option(help="Name of the search. Default: NAME-search.")] = None,
) -> None:
    """Search for settings, with or without identities. Rerun the same command to resume an interrupted search.

    Each trial is a complete run. Writes OUTPUT/NAME with trials.parquet, report.html, the runs, and best.yaml, a recipe
    for 'reid-ray train'.
    """
    from reid_ray.tuning.live import Board
    from reid_ray.tuning.report import report_search
    from reid_ray.tuning.request import Budget, make_request
    from reid_ray.tuning.search import search as run_search

    config = load_config(recipe, overrides or [])
    request = make_request(
        config,
        name=name or f"{config.name}-search",
        wanted=search or [],
        objectives=objective or ["label-free"],
        stop_early=stop_early,
        sweep=sweep or [],
    )
    n_trials = DEFAULT_TRIALS if trials is None and hours is None else trials
    console = make_console()
    try:
        results = run_search(request, Budget(n_trials, hours, concurrent, top, seeds, compare), Board(console))
    except KeyboardInterrupt:
        console.print("Interrupted. Rerun the same command to resume the search.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    show_results(results, console)
    console.print(f"Report: {report_search(results.directory.path)}", highlight=False, soft_wrap=True)
    console.print(
        f"Best recipe: {results.directory.best}\nTrain it with: reid-ray train {_short(results.directory.best)}",
        highlight=False,
        soft_wrap=True,
    )


def show_results(results: Results, console: Console) -> None:
    """Print the best trials and the results of more seeds; `RunError` if no trial has a score."""
    from reid_ray.tuning.results import best_config

    best_config(results)
    console.print(_best_table(results))
    for title, points in (("Best trials with more seeds", results.repeats), ("On the test split", results.final)):
        if points:
            console.print(_seeds_table(title, points))
    if results.final or results.winner == results.own:
        console.print(verdict(results), highlight=False, soft_wrap=True)


def verdict(results: Results) -> str:
    """Whether the winner beats the recipe on the test split, with new seeds."""
    if results.is_undecided:
        return "The scores do not separate the best trial from the recipe, whose values are kept; try --seeds."
    if results.winner == results.own:
        return "The recipe's own values are the winner: no trial was better."
    winner, recipe = _of(results.final, results.winner or {}), _of(results.final, results.own)
    if winner is None or recipe is None or not (common := sorted(set(winner.scores) & set(recipe.scores))):
        return "Winner and recipe cannot be compared: their runs failed."
    gains = [winner.scores[seed] - recipe.scores[seed] for seed in common]
    n_better, mean = sum(gain > 0 for gain in gains), sum(gains) / len(gains)
    beats = "beats" if mean > 0 else "does not beat"
    return (
        f"The winner {beats} the recipe: mAP {100 * mean:+.1f} points, mean of {len(gains)} new seeds; "
        f"it is better with {n_better} of them."
    )


def _best_table(results: Results) -> Table:
    """The best trials; with two objectives the Pareto front is marked."""
    from reid_ray.tuning.report import shown
    from reid_ray.tuning.results import score_names
    from reid_ray.tuning.study import best_first, pareto_front

    rows, names = best_first(results.rows), score_names(results.request, "search")
    two = len(names) > 1
    front = {row.id for row in pareto_front(results.rows)} if two else set()
    listed = [row for i, row in enumerate(rows) if i < N_SHOWN or row.id in front]
    states = [row.state for row in results.rows]
    others = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    caption = f"{len(states)} trials: {others}" + ("; * no other is better in both" if two else "")
    table = Table("run", title=f"Best trials of {results.request.name}", caption=caption)
    for name in (*names, "seconds"):
        table.add_column(name, justify="right")
    for key in listed[0].point if listed else ():
        table.add_column(_heading(key), justify="right")
    for row in listed:
        cells = [*row.scores, row.measures.get("seconds", 0.0), *row.point.values()]
        mark = "*" if row.id in front else ""
        table.add_row(f"{row.id}{mark}", *map(shown, cells), style="bold" if row is rows[0] else None)
    return table


def _seeds_table(title: str, points: list[Repeated]) -> Table:
    from reid_ray.tuning.report import shown

    seeds = sorted({seed for point in points for seed in point.scores})
    table = Table(title=title)
    for heading in ("mean", *(f"seed {seed}" for seed in seeds)):
        table.add_column(heading, justify="right")
    for key in points[0].values:
        table.add_column(_heading(key), justify="right")
    for point in points:
        scores = [point.scores.get(seed) for seed in seeds]
        table.add_row(*map(shown, (point.mean, *scores, *point.values.values())))
    return table


def _heading(key: str) -> str:
    """The last part of a key, with spaces so that a narrow column can wrap it."""
    return key.rpartition(".")[2].replace("_", " ")


def _of(points: list[Repeated], values: dict[str, bool | int | float | str | None]) -> Repeated | None:
    return next((point for point in points if point.values == values), None)


def _short(path: Path) -> str:
    """A path relative to the current directory if it is inside."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
