"""The first Ctrl-C waits for the step's end, the second does not."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from reid_ray.training.interrupt import deferred_interrupt


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_is_a_flag_and_the_handler_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupt:
        assert not interrupt.requested
        press_ctrl_c()
        assert interrupt.requested
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_interrupts_at_once():
    def twice():
        with deferred_interrupt():
            press_ctrl_c()
            press_ctrl_c()

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_handler_comes_back_after_an_error_too():
    def failing():
        with deferred_interrupt():
            raise RuntimeError("a step")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="a step"):
        failing()
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_nothing_happens():
    def run():
        with deferred_interrupt() as interrupt:
            return interrupt.requested

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() is False
