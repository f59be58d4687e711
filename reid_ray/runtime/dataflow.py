"""What all work through Ray Data has in common: rows as they come, a user's mistake as itself, and no chatter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import ray
from ray.data import DataContext, Dataset

from reid_ray.errors import UserError
from reid_ray.runtime.logging_utils import silenced, variables

LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
"""Variable: what Ray's own processes say."""

Batch = dict[str, npt.NDArray[Any]]
"""Columns of a batch by name, as Ray Data hands them to a function."""


def quiet_context() -> DataContext:
    """Ray Data's settings, without progress bars; errors of a task come as they are."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    return context


class CarriedError(Exception):
    """A user's mistake, `args[1]`, on its way through Ray Data, which adds advice of its own to an error's text."""


@contextmanager
def carrying() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise CarriedError("", error) from None


def rows_of(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The dataset's rows as they come; a user's mistake in a task is raised as itself."""
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
def quiet() -> Iterator[None]:
    """Keep Ray Data's account of each dataset off the terminal; it stands in Ray's logs too.

    Ray also warns at each actor pool of Ray Data that its arguments lie in the object store, where this process keeps
    them; so Ray's own processes, where they start in the block, say only what is fatal.
    """
    chosen = {} if LOG_LEVEL in os.environ else {LOG_LEVEL: "fatal"}
    with silenced("ray.data"), variables(chosen):
        yield
