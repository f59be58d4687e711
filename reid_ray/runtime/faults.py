"""What clusters do to jobs, as the loop and the user should hear of it."""

from __future__ import annotations

import threading

import ray.exceptions
import ray.train

from reid_ray.errors import OutOfMemoryError, RunError, UserError
from reid_ray.training.interrupt import Request

POLL_SECONDS = 2.0
"""Between two questions whether a node is about to be taken away."""


DEATHS = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
"""What Ray raises where the process of an actor is gone; the second where its memory monitor killed it."""


class PreemptionNotice:
    """Says once for each notice that a node of the run will be taken away: time to write a checkpoint.

    Ray tells all workers together, in a call that waits for each of them; so a thread asks, and not the step.
    """

    def __init__(self) -> None:
        self._noticed = threading.Event()
        threading.Thread(target=self._watch, name="reid-preemption", daemon=True).start()

    def __call__(self) -> Request:
        if self._noticed.is_set():
            self._noticed.clear()
            return Request.SAVE
        return Request.NOTHING

    def _watch(self) -> None:
        known = None
        while True:
            try:
                info = ray.train.get_preemption_info()
            except Exception:  # the group is being taken down, and this thread with it
                return
            if info is not None and info != known:
                known = info
                self._noticed.set()
            threading.Event().wait(POLL_SECONDS)


def plain_error(error: Exception) -> Exception:
    """What went wrong behind Ray Train's error: a user's mistake as itself, a dead worker as a sentence."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    causes = [getattr(failure, "cause", None) or failure.__cause__ or failure for failure in failures.values()]
    for cause in causes:
        if isinstance(cause, UserError):
            return cause
    for failure in causes:
        if isinstance(failure, DEATHS):
            return dead_actor(failure, "A training worker")
    return error


def dead_actor(error: Exception, who: str) -> UserError:
    """The sentence for a process that has died more often than is survived."""
    reason = " ".join(str(error).split())
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in reason:
        return OutOfMemoryError(
            f"{who} was killed because its machine ran out of memory; make data.cache_mb or labels.memory_mb smaller, "
            f"run fewer processes on a machine, or take larger ones. The same command goes on from the last checkpoint."
        )
    return RunError(
        f"{who} has died more than runtime.max_failures allows. Ray says: {reason[:300]}… Often the machine ran out of "
        f"memory; its log is in the folder 'logs' of Ray's session there. The same command goes on from the last "
        f"checkpoint."
    )
