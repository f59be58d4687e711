"""What went wrong on a cluster, as the user should hear of it."""

from __future__ import annotations

import ray.exceptions

from reid_ray.errors import OutOfMemoryError, RunError, UserError

MAX_RESTARTS = 20
"""Deaths of one actor of the pool that are survived. Its tasks are tried without limit, for while a node's death is not
known yet, Ray tries often."""

DEATHS = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
"""What Ray raises where the process of an actor is gone; the second where its memory monitor killed it."""


def plain_error(error: Exception) -> Exception:
    """What went wrong behind Ray Train's error: a user's mistake as itself, a dead worker as a sentence."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    causes = [getattr(failure, "cause", None) or failure.__cause__ or failure for failure in failures.values()]
    for cause in causes:
        if isinstance(cause, UserError):
            return cause
    for failure in causes:
        if isinstance(failure, DEATHS):
            return dead_actor(failure, "A training worker", "runtime.max_failures")
    return error


def dead_actor(error: Exception, who: str, limit: str) -> UserError:
    """The sentence for a process that has died more often than is survived."""
    reason = " ".join(str(error).split())
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in reason:
        return OutOfMemoryError(
            f"{who} was killed because its machine ran out of memory; make data.cache_mb or labels.memory_mb smaller, "
            f"run fewer processes on a machine, or take larger ones. The same command goes on from the last checkpoint."
        )
    return RunError(
        f"{who} has died more often than is survived ({limit}). Ray says: {reason[:300]}… Often the machine ran out of "
        f"memory; its log is in the folder 'logs' of Ray's session there. The same command goes on from the last "
        f"checkpoint."
    )
