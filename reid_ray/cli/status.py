"""`reid-ray status`: the state of a run, from its directory alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from reid_ray.cli.progress import make_console, metrics_text
from reid_ray.config import Config, config_hash

# The run's state imports PyTorch, so import it where it is used: --help should not wait for it.
if TYPE_CHECKING:
    from reid_ray.training.run_state import RunState
    from reid_ray.training.rundir import RunDirectory

app = typer.Typer()


@app.command(epilog="Example:  reid-ray status /shared/runs/ice")
def status(
    run: Annotated[str, typer.Argument(help="A run directory, finished or running, on any machine that can read it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for scripts.")] = False,
) -> None:
    """Show the state of a run: epoch, last loss, labels and metrics, whether it is alive, how to resume."""
    from reid_ray.run import load_run
    from reid_ray.training.run_state import RunState

    opened = load_run(run)
    state = RunState.of(opened.directory, opened.config)
    if as_json:
        typer.echo(json.dumps({"run": str(opened.path), **state.as_dict()}, indent=2))
        return
    table = Table(title=f"{opened.config.name}: {state.phase}", show_header=False)
    for name, text in _rows(opened.config, state):
        table.add_row(name, text)
    console = make_console()
    console.print(table)
    console.print(_advice(state, opened.directory), highlight=False, soft_wrap=True, markup=False)


def _rows(config: Config, state: RunState) -> list[tuple[str, str]]:
    """Names and values of the known facts."""
    data = config.data.layout if config.data.root is None else f"{config.data.layout} {config.data.root}"
    rows = [("configuration", f"{config.method.name} on {data}, hash {config_hash(config)}")]
    rows.append(("epochs", f"{state.epoch} of {state.epochs} completed in stage {state.stage}"))
    if state.step:
        rows.append(("step", f"{state.step} of {state.iterations}" if state.iterations else str(state.step)))
    if step := state.events.get("step"):
        loss = "not finite" if step["loss"] is None else f"{step['loss']:.3f}"
        rows.append(("loss", f"{loss} at step {step['step']} of epoch {step['epoch'] + 1}"))
    if refresh := state.events.get("refresh"):
        counts = f"{refresh['n_clusters']} clusters, {refresh['n_outliers']} outliers of {refresh['n_images']} images"
        rows.append(("labels", f"{counts}, for epoch {refresh['epoch'] + 1}"))
    if found := state.events.get("evaluate"):
        rows.append(("evaluated", f"{metrics_text(found)} after epoch {found['epoch']}"))
    if start := state.events.get("start"):
        rows.append(("trained by", f"{start['n_workers']} workers on {start['device']}"))
    rows.append(("checkpoint", state.checkpoint or "none yet"))
    if state.quiet_seconds is not None:
        rows.append(("last wrote", f"{_duration(state.quiet_seconds)} ago"))
    return rows


def _advice(state: RunState, directory: RunDirectory) -> str:
    path, again = directory.path, f"reid-ray train {directory.config_file}"
    if state.phase == "finished":
        return f"Finished. Plot it with reid-ray report {path}, evaluate it with reid-ray evaluate {path}."
    if state.diverged:
        file = directory.diverged_file(0)
        return f"The loss is not finite; {file} holds the batch. The same settings would diverge again."
    if state.phase == "running":
        return f"Recently written, so it seems to run. Once stopped, resume with the original command, or: {again}"
    if state.phase == "silent":
        usual = f"its longest pause was {_duration(state.usual_seconds)}"
        return (
            f"Silent for {_duration(state.quiet_seconds or 0)}, and {usual}: stopped, killed or hung. Resume: {again}"
        )
    return f"Nothing trained yet. Start or resume: {again}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
