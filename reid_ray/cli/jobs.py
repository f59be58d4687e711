"""`reid-ray submit` and `reid-ray jobs`: submit a command to a Ray cluster, follow it, stop it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from reid_ray.cli.commands import commands
from reid_ray.cli.exit_codes import EXIT_INTERRUPTED
from reid_ray.cli.progress import make_console
from reid_ray.config import config_hash, load_config, recipe_names
from reid_ray.config.loading import relative_paths
from reid_ray.errors import ConfigError

# Ray is imported where it is used: --help should not wait for it.
if TYPE_CHECKING:
    from reid_ray.runtime.submission import Job, JobServer, Request
    from reid_ray.runtime.working_dir import WorkingDir

JOBS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "tune": ("tune",),
    "extract": ("extract",),
    "label": ("label",),
    "evaluate": ("evaluate",),
    "pack": ("data", "pack"),
}
"""Job name (a module in `jobs/`) → the command that it runs."""

PATHS = ("run", "features", "source", "table", "out")
"""Command parameters that are paths."""

app = typer.Typer()
jobs_app = typer.Typer(help="Jobs on a Ray cluster: list, follow, stop.", no_args_is_help=True)

AddressOption = Annotated[
    str | None,
    typer.Option(
        help="Dashboard of the cluster, http://HOST:8265. Default: RAY_API_SERVER_ADDRESS, or this machine.",
        show_default=False,
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="RUN|ID", help="Name of a run (its newest job), or id of a job.")]


@app.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Examples:  reid-ray submit ice data.root=/shared/market output=/shared/runs --dry-run   |   "
    "reid-ray submit --job extract /shared/runs/ice --out /shared/features --extractors 8",
)
def submit(
    recipe: Annotated[
        str, typer.Argument(help="A recipe or YAML file; for other jobs the first argument of their command.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="The other arguments of 'reid-ray JOB'."),
    ] = None,
    job: Annotated[
        Literal["train", "tune", "extract", "label", "evaluate", "pack"], typer.Option(help="Command to run.")
    ] = "train",
    address: AddressOption = None,
    working_dir: Annotated[
        Path, typer.Option(help="Folder to upload: recipes, and the package if the cluster lacks it.")
    ] = Path(),
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE]",
            help="Environment variable for the job and its workers; without a value, that of this shell.",
        ),
    ] = None,
    pip: Annotated[
        list[str] | None,
        typer.Option(metavar="REQUIREMENT", help="Package to install on each node first. Default: none."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Print the log of the job until it ends.")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the request without submitting it.")] = False,
) -> None:
    """Run a reid-ray command as a job on a Ray cluster. Rerun to follow the job, or to resume its run.

    Paths must mean the same on all nodes, so they are absolute, or URIs. Exit code: that of the job.
    """
    request = make_request(job, [recipe, *(overrides or [])], working_dir, env or [], pip or [])
    if dry_run:
        typer.echo(request.describe(), nl=False)
        return
    request.working_dir.check()
    from reid_ray.runtime.submission import JobServer

    server = JobServer(address)
    console = make_console(stderr=True)
    console.print(f"Working directory {request.working_dir.describe()}", highlight=False, soft_wrap=True, markup=False)
    job_id, new = server.submit(request)
    prefix = "Submitted" if new else f"'{request.run}' already has an active job:"
    console.print(f"{prefix} {job_id} on {server.address}", highlight=False, soft_wrap=True)
    if follow:
        _follow(server, job_id)


@jobs_app.command("list")
def list_jobs(address: AddressOption = None) -> None:
    """List the jobs of a cluster, oldest first."""
    from reid_ray.runtime.submission import JobServer

    table = Table("job", "run", "state", "started", "duration", "message")
    for job in JobServer(address).jobs():
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started)) if job.started else ""
        took = f"{((job.ended or time.time()) - job.started) / 60:.0f} min" if job.started else ""
        message = job.message.partition("\n")[0].partition(", last available logs")[0] if job.is_over else ""
        table.add_row(job.id, job.metadata.get("run", ""), job.status.lower(), began, took, message)
    make_console().print(table)


@jobs_app.command("follow")
def follow_job(name: NameArgument, address: AddressOption = None) -> None:
    """Print the log of a job from its beginning until the job ends. Exits with the job's exit code."""
    from reid_ray.runtime.submission import JobServer

    server = JobServer(address)
    _follow(server, server.find(name).id)


@jobs_app.command("stop")
def stop_job(name: NameArgument, address: AddressOption = None) -> None:
    """Stop a job, as Ctrl-C does. Its run can be resumed."""
    from reid_ray.runtime.submission import JobServer

    server = JobServer(address)
    job = server.find(name)
    stopped = server.stop(job.id)
    typer.echo(f"Stopping {job.id}." if stopped else f"{job.id} was not running: {job.status.lower()}.")


def make_request(
    job: str, arguments: Sequence[str], working_dir: Path, env: Sequence[str], pip: Sequence[str]
) -> Request:
    """The request for a command line, with everything validated that can be checked locally.

    Raises:
        ConfigError: a setting, a path or a working directory that will not do.
    """
    from reid_ray.runtime.submission import Request
    from reid_ray.runtime.working_dir import WorkingDir

    folder = WorkingDir.of(working_dir)
    options = _parsed(job, arguments)
    metadata = {"job": job}
    if "recipe" in options:
        recipe, overrides = options["recipe"], options["overrides"] or []
        config = load_config(recipe, overrides)
        _refuse_relative(relative_paths(config))
        name = options.get("name") or config.name  # a search may have its own name
        metadata |= {"run": name, "recipe": recipe, "config": config_hash(config), "output": config.output}
        arguments = [_sent_recipe(recipe, folder), *arguments[1:]]
    else:
        _refuse_relative(_relative_options(options))
        metadata["run"] = re.sub(r"[^\w.-]", "-", Path(arguments[0]).name)
        if options.get("out") is not None:
            metadata["output"] = str(options["out"])
    return Request(job, metadata["run"], tuple(arguments), metadata, folder, _variables(env), tuple(pip))


def _parsed(job: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Parameters of the job's command by name. Click exits with code 2 on a parse error."""
    command: Any = typer.main.get_command(commands)
    for name in JOBS[job]:
        command = command.commands[name]
    parameters: dict[str, Any] = command.make_context(f"reid-ray {' '.join(JOBS[job])}", list(arguments)).params
    return parameters


def _sent_recipe(recipe: str, folder: WorkingDir) -> str:
    """The recipe argument of the job: a recipe name, a path in the working directory, or an absolute path outside of it
    on storage that the cluster sees."""
    if recipe in recipe_names():
        return recipe
    file = Path(recipe).absolute()
    inside = file.relative_to(folder.folder).as_posix() if file.is_relative_to(folder.folder) else None
    if inside is None and Path(recipe).is_absolute():
        return recipe
    if inside not in {path for path, _ in folder.files}:
        raise ConfigError(
            f"The recipe {recipe} is not among the uploaded files of the working directory {folder.folder}; move "
            f"it there, and remove it from .gitignore and .rayignore."
        )
    return inside


def _relative_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Relative paths of a command line, by option."""
    named = {name: str(options[name]) for name in PATHS if options.get(name) is not None}
    overrides = [override.partition("=") for override in options.get("overrides") or []]
    named |= {key: value for key, _, value in overrides if key.endswith(".root")}
    return {name: path for name, path in named.items() if "://" not in path and not Path(path).is_absolute()}


def _refuse_relative(paths: Mapping[str, str]) -> None:
    for name, path in paths.items():
        raise ConfigError(
            f"{name}={path} is relative to the job's working directory, which is deleted with the job; use an absolute "
            f"path on storage that all nodes of the cluster see, or a URI such as s3://BUCKET/FOLDER."
        )


def _variables(env: Sequence[str]) -> dict[str, str]:
    """Parse `NAME=VALUE`, or `NAME` with the value of this shell."""
    found = {}
    for given in env:
        name, equals, value = given.partition("=")
        if not equals and name not in os.environ:
            raise ConfigError(f"--env {name}: this shell has no such variable; write --env {name}=VALUE.")
        found[name] = value if equals else os.environ[name]
    return found


def _follow(server: JobServer, job_id: str) -> None:
    console = make_console(stderr=True)
    try:
        job = server.follow(job_id, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        console.print(
            f"Stopped following; the job continues. Run 'reid-ray jobs follow {job_id}' to follow it again, "
            f"'reid-ray jobs stop {job_id}' to stop it.",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    console.print(f"{job_id} {job.status.lower()}", highlight=False)
    if code := _exit_code(job):
        if not job.exit_code:  # else the log has the reason
            console.print(job.message, highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(code)


def _exit_code(job: Job) -> int:
    if job.status == "SUCCEEDED":
        return 0
    return EXIT_INTERRUPTED if job.status == "STOPPED" else job.exit_code or 1
