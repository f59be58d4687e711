"""Where a run stands, from its log: position, and when silence means that nobody is there."""

import json

import pytest

from reid_ray.training.run_state import PAUSE_SECONDS, RunState
from reid_ray.training.rundir import RunDirectory


@pytest.fixture
def state_of(tiny, tmp_path):
    """`state_of((seconds, event, fields…), …, now=…)`: the state of a run of 2 epochs of 4 steps with such a log."""
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()

    def make(*events, now, overrides=()):
        config = tiny(*overrides)
        lines = [{"event": event, "time": float(at), **fields} for at, event, fields in events]
        directory.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return RunState.of(directory, config, now=now)

    return make


START = (0, "start", {"stage": "main", "epoch": 0, "step": 0})
REFRESH = (10, "refresh", {"epoch": 0})


@pytest.mark.parametrize(
    ("events", "position"),
    [
        ([], (0, 0)),
        ([START], (0, 0)),
        ([START, REFRESH], (0, 0)),
        ([START, REFRESH, (11, "step", {"epoch": 0, "step": 3})], (0, 3)),
        ([START, (12, "step", {"epoch": 0, "step": 4}), (12, "epoch", {"epoch": 0})], (1, 0)),
        ([(12, "epoch", {"epoch": 0}), (13, "evaluate", {"epoch": 1})], (1, 0)),
        ([(12, "epoch", {"epoch": 0}), (14, "refresh", {"epoch": 1})], (1, 0)),
        ([(14, "step", {"epoch": 1, "step": 2}), (20, "start", {"stage": "main", "epoch": 1, "step": 1})], (1, 1)),
        ([(14, "step", {"epoch": 1, "step": 4}), (20, "end", {"epochs": 2})], (2, 0)),
    ],
)
def test_the_position_is_that_of_the_last_line(state_of, events, position):
    state = state_of(*events, now=30)
    assert (state.epoch, state.step) == position
    assert (state.epochs, state.iterations) == (2, 4)


def test_a_run_is_silent_when_it_has_been_quiet_for_longer_than_its_pauses_explain(state_of):
    assert state_of(now=10**6).phase == "not begun"
    assert state_of(START, now=PAUSE_SECONDS - 1).phase == "running"
    assert state_of(START, now=PAUSE_SECONDS + 1).phase == "silent"
    slow = [START, (500, "refresh", {"epoch": 0})]  # a refresh of 500 seconds: the next may take three times as long
    assert state_of(*slow, now=500 + 1499).phase == "running"
    assert state_of(*slow, now=500 + 1501).phase == "silent"
    away = [
        START,
        (10**5, "start", {"stage": "main", "epoch": 0, "step": 0}),
    ]  # the pause before it was continued was none of its own
    assert state_of(*away, now=10**5 + PAUSE_SECONDS + 1).phase == "silent"
    ended = [START, (20, "end", {"epochs": 2})]
    assert state_of(*ended, now=10**6).phase == "finished"
    fewer = [START, (20, "end", {"epochs": 1})]  # the configuration asks for two by now
    assert state_of(*fewer, now=21).phase == "running"


def test_a_clock_that_is_behind_makes_no_negative_time(state_of):
    assert state_of((100, "start", {"stage": "main", "epoch": 0, "step": 0}), now=90).quiet_seconds == 0


def test_the_stage_is_that_of_the_last_start(state_of):
    """Its epochs are its own; before the first event it is the first."""
    overrides = ("source={layout: synthetic}", "stages.source={epochs: 5, iterations: 7}")
    source = (0, "start", {"stage": "source", "epoch": 0, "step": 0})
    step = (5, "step", {"stage": "source", "epoch": 3, "step": 2})
    main = (9, "start", {"stage": "main", "epoch": 0, "step": 0})
    for events, stage, position, length in (
        ([], "source", (0, 0), (5, 7)),
        ([source, step], "source", (3, 2), (5, 7)),
        ([source, step, main], "main", (0, 0), (2, 4)),
        ([source, main, (20, "end", {"epochs": 2})], "main", (2, 0), (2, 4)),
    ):
        state = state_of(*events, now=30, overrides=overrides)
        assert (state.stage, (state.epoch, state.step), (state.epochs, state.iterations)) == (stage, position, length)


def test_the_steps_of_one_pass_are_known_from_the_log(state_of):
    one_pass = ("training.iterations=null",)
    assert state_of(START, now=1, overrides=one_pass).iterations is None
    logged = (5, "step", {"stage": "main", "epoch": 0, "step": 2, "n_steps": 6})
    assert state_of(START, logged, now=6, overrides=one_pass).iterations == 6
    assert state_of(START, logged, now=6).iterations == 4
