"""Requests from outside, answered between steps: Ctrl-C, a termination, a node that will be taken away."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType


class Request(IntEnum):
    """What a worker is asked to do after its step; workers agree on the highest."""

    NOTHING = 0
    SAVE = 1
    """Write a checkpoint now and go on; this machine may be gone soon."""
    STOP = 2
    """Write a checkpoint and end."""


class Interrupt:
    """Whether Ctrl-C was pressed, or SIGTERM sent."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Turn the first SIGINT or SIGTERM into a flag, so that a step ends whole; a second one acts at once.

    Outside the main thread, where Python delivers no signals, the flag just stays down.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number in numbers:
            signal.signal(number, before[number])

    def remember(signum: int, frame: FrameType | None) -> None:
        interrupt.requested = True
        restore()

    for number in numbers:
        signal.signal(number, remember)
    try:
        yield interrupt
    finally:
        restore()


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Treat the first SIGTERM in the block as Ctrl-C: who wants the machine back leaves time to tidy up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def interrupt(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
