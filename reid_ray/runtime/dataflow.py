"""Helpers for Ray Data: stream rows, re-raise a `UserError` as itself, and silence progress output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import ray
from ray.data import DataContext, Dataset

from reid_ray.errors import UserError
from reid_ray.logging_utils import silenced, variables

LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
"""Environment variable: log level of Ray's own processes."""

Batch = dict[str, npt.NDArray[Any]]
"""Columns of a batch by name, as Ray Data passes them to a function."""


def quiet_context() -> DataContext:
    """Ray Data's settings without progress bars, and with the original exceptions of tasks."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    return context


class CarriedError(Exception):
    """Carries a `UserError`, `args[1]`, through Ray Data, which would add its own advice to the message."""


@contextmanager
def carry_user_errors() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise CarriedError("", error) from None


def rows_of(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The dataset's rows as they come; a user's mistake in a task is re-raised as itself."""
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        cause: Any = error
        while isinstance(cause, ray.exceptions.RayTaskError):
            cause = cause.cause
        if isinstance(cause, CarriedError):
            raise cause.args[1] from None
        raise


@contextmanager
def silence_ray_data() -> Iterator[None]:
    """Keep Ray Data's output about each dataset off the terminal; Ray's log files have it too.

    Ray also warns for each Ray Data actor pool that its arguments are in the object store. So Ray processes that start
    in the block log fatal errors only.
    """
    chosen = {} if LOG_LEVEL in os.environ else {LOG_LEVEL: "fatal"}
    with silenced("ray.data"), variables(chosen):
        yield
