"""External requests, handled between steps: Ctrl-C, a termination signal, a node that is about to be removed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | int | None


class Request(IntEnum):
    """The action requested of a worker after its step; workers agree on the highest."""

    NOTHING = 0
    SAVE = 1
    """Write a checkpoint now and continue; this machine may be removed soon."""
    STOP = 2
    """Write a checkpoint and exit."""


class Interrupt:
    """Whether Ctrl-C was pressed or SIGTERM received."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Turn the first SIGINT or SIGTERM into a flag, so that the current step completes; a second one acts at once.

    Outside the main thread, where Python delivers no signals, the flag is never set.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            put_back(number, handler)

    def remember(signum: int, frame: FrameType | None) -> None:
        interrupt.requested = True
        restore()

    for number in before:
        signal.signal(number, remember)
    try:
        yield interrupt
    finally:
        restore()


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Treat the first SIGTERM in the block as Ctrl-C: schedulers leave time to clean up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def interrupt(signum: int, frame: FrameType | None) -> None:
        put_back(signal.SIGTERM, before)
        if not callable(signal.getsignal(signal.SIGINT)):  # a shell starts background jobs with SIGINT ignored
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        put_back(signal.SIGTERM, before)


def put_back(number: signal.Signals, handler: Handler) -> None:
    """Restore a handler that `signal.getsignal` returned; None, a handler of C code, becomes the default."""
    signal.signal(number, signal.SIG_DFL if handler is None else handler)
