"""The image that ends the process which decodes it is found among others, and no other is blamed."""

import os
import signal
import time
from dataclasses import dataclass

import pytest

from reid_ray.data.probing import find_fatal_image
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


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["a", "bad", "crash"], ("crash", "signal SIGSEGV")),
        (["exit", "crash"], ("exit", "exit code 139")),
        (["a", "bad"], None),
        (["killed"], None),
    ],
)
def test_the_image_is_found(paths, found):
    assert find_fatal_image(Images(), paths, 120) == found


def test_an_image_that_is_never_decoded():
    assert find_fatal_image(Images(), ["a", "hang"], 1) == ("hang", "no answer in 1 s")


def test_what_a_decoder_prints_is_no_answer():
    assert find_fatal_image(Images(), ["prints", "a"], 120) is None


def test_a_process_that_cannot_begin_blames_nothing(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert find_fatal_image(Images(), ["crash"], 20) is None
