"""All commands that run in this process, or as a job of a cluster."""

from __future__ import annotations

import typer

from reid_ray.cli import data, export, export_metrics, generate, label, retrieval, search, status, train, tune

commands = typer.Typer()
for section in (train, tune, retrieval, search, export, generate, label, status, export_metrics):
    commands.registered_commands.extend(section.app.registered_commands)
commands.add_typer(data.app, name="data")
