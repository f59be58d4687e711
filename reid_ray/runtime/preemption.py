"""Preemption notices: a node of the run will be reclaimed, for example a spot instance."""

from __future__ import annotations

import threading

import ray.train

from reid_ray.training.interrupt import Request

POLL_SECONDS = 5.0
"""Seconds between two checks for a preemption notice."""


class PreemptionNotice:
    """Requests a checkpoint once for each preemption notice.

    Ray's call is a collective over all workers that blocks, so a thread polls it instead of the training step.
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
            except Exception:  # the worker group is shutting down
                return
            if info is not None and info != known:
                known = info
                self._noticed.set()
            threading.Event().wait(POLL_SECONDS)
