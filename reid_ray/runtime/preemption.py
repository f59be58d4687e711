"""Notice that a node of the run will be taken away, as clouds give for spot instances."""

from __future__ import annotations

import threading

import ray.train

from reid_ray.training.interrupt import Request

POLL_SECONDS = 5.0
"""Between two questions whether a node is about to be taken away."""


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
