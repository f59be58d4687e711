"""The image that ends the process which decodes it is found among others, and no other is blamed."""

import os
import signal
import time
from dataclasses import dataclass

import pytest

from reid_ray.data.probing import find_fatal_image, first_fatal, started_prober
from reid_ray.errors import DataError


@dataclass(frozen=True)
class Images:
    """Images whose name says what decoding them does."""

    def read(self, path):
        if path.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if path.startswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if path.startswith("hang"):
            time.sleep(600)
        if path.startswith("exit"):
            os._exit(139)
        if path.startswith("prints"):
            print("signal SIGSEGV", flush=True)
        if path.startswith("bad"):
            raise DataError("refused in words")


@pytest.fixture(scope="module")
def prober():
    """One for all tests, because it takes seconds to start; what one task does to it would show in the next."""
    with started_prober() as process:
        yield process


def test_the_process_is_started_and_ended():
    assert find_fatal_image(Images(), ["a", "bad", "crash"], 120) == ("crash", "signal SIGSEGV")


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["a", "crash", "bad", "crash 2"], ("crash", "signal SIGSEGV")),
        (["exit", "crash"], ("exit", "exit code 139")),
        (["a", "bad"], None),
        (["killed"], None),
    ],
)
def test_the_image_is_found(prober, paths, found):
    assert first_fatal(prober, Images(), paths, 120) == found


def test_an_image_that_is_never_decoded(prober):
    assert first_fatal(prober, Images(), ["a", "hang"], 1) == ("hang", "no answer in 1 s")


def test_what_a_decoder_prints_is_no_answer(prober):
    assert first_fatal(prober, Images(), ["prints", "a"], 120) is None
    assert first_fatal(prober, Images(), ["crash"], 120) == ("crash", "signal SIGSEGV")


def test_a_process_that_cannot_begin_blames_nothing(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert find_fatal_image(Images(), ["crash"], 20) is None
