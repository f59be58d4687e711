"""The `reid-ray` command: parse, call one function, print. A user error is a one-line message and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape

from reid_ray.cli import jobs
from reid_ray.cli.commands import commands
from reid_ray.cli.exit_codes import EXIT_USER_ERROR
from reid_ray.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train person re-identification, unsupervised or supervised, from a folder of crops to a Ray cluster. "
    "Start with 'reid-ray demo', then 'reid-ray train ice data.root=FOLDER'.",
)
for section in (commands, jobs.app):
    app.registered_commands.extend(section.registered_commands)
    app.registered_groups.extend(section.registered_groups)
app.add_typer(jobs.jobs_app, name="jobs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command line (default: `sys.argv`). A `UserError` prints one line and exits with code 2."""
    try:
        app(arguments)
    except UserError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(EXIT_USER_ERROR)
