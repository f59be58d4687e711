"""The first Ctrl-C waits for the step's end, the second does not."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from reid_ray.training.interrupt import deferred_interrupt, terminated_as_interrupted


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


def test_a_termination_is_an_interrupt_once():
    before = signal.getsignal(signal.SIGTERM)

    def terminated():
        with terminated_as_interrupted():
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        terminated()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_termination_interrupts_a_process_that_ignores_ctrl_c():
    """As one that a script has started in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_step_is_ended_before_a_termination_too():
    with deferred_interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested


@pytest.mark.parametrize("block", [deferred_interrupt, terminated_as_interrupted])
def test_a_handler_of_other_code_than_python_s_gives_way_to_the_default(block, monkeypatch):
    """Ray has one for SIGTERM; Python knows only that it is there."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        ours = signal.getsignal(signal.SIGINT)
        patch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGTERM else ours)
        with block():
            pass
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGTERM, before)
