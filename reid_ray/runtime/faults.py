"""Translate failures of Ray processes into errors for the user."""

from __future__ import annotations

import ray.exceptions

from reid_ray.errors import OutOfMemoryError, RunError, UserError

MAX_RESTARTS = 20
"""Restarts of a pool actor before the run fails. Its tasks are retried without limit: until Ray notices a dead node, it
may retry many times."""

ACTOR_DEATHS = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
"""What Ray raises if the process of an actor has died; the second if Ray's memory monitor killed it."""


def plain_error(error: Exception) -> Exception:
    """The cause behind Ray Train's error: a `UserError` as itself, a dead worker as a `RunError`."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    causes = [getattr(failure, "cause", None) or failure.__cause__ or failure for failure in failures.values()]
    for cause in causes:
        if isinstance(cause, UserError):
            return cause
    for failure in causes:
        if isinstance(failure, ACTOR_DEATHS):
            return actor_death_error(failure, "A training worker", "runtime.max_failures")
    return error


def actor_death_error(error: Exception, who: str, limit: str) -> UserError:
    """The error for a process that died more often than `limit` allows."""
    reason = " ".join(str(error).split())
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in reason:
        return OutOfMemoryError(
            f"{who} was killed because its machine ran out of memory; make data.cache_mb or labels.memory_mb smaller, "
            f"run fewer processes per machine, or use larger machines. Rerun the same command to resume."
        )
    return RunError(
        f"{who} died more often than allowed ({limit}). Ray reports: {reason[:300]}… Often the machine ran out of "
        f"memory; its log is in the folder 'logs' of its Ray session. Rerun the same command to resume from the last "
        f"checkpoint."
    )
