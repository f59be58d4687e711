"""Killed is not lost, whatever the method: memories, classifiers and moments are those of a run that was not."""

import pytest
from small_runs import METHOD_RUNS, assert_bit_equal, newest_state, steps_logged

from reid_ray.api import train
from reid_ray.methods import stages_of


class KilledError(Exception):
    pass


def killer(stage, kind, number, steps_before):
    def listen(event):
        if (event["stage"], event["event"]) != (stage.name, kind):
            return
        place = event["global_step"] - steps_before if kind == "step" else event["epoch"]
        if place == number:
            raise KilledError

    return listen


def n_steps(stage):
    return stage.config.epochs * stage.config.iterations


def moments(stage, stages):
    """Events at which a stage is killed: kind of event, and its step in the stage or its epoch.

    Checkpoints are written after new labels, every two steps and after an epoch. Each kill makes the run resume from a
    checkpoint of another kind; the first, from the end of the stage before.
    """
    first = [] if stage is stages[0] else [("start", 0)]
    if stage is not stages[-1]:
        return [*first, ("epoch", 0)]
    second_epoch = ("refresh", 1) if stage.clusters else ("step", 5)  # labels that are known are taken once
    return [*first, ("step", 1), ("step", 3), second_epoch, ("step", 7)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHOD_RUNS)
def test_a_run_that_is_killed_again_and_again_ends_bit_equal(tiny, method):
    options = (*METHOD_RUNS[method], "training.checkpoint_every=2", "training.keep_checkpoints=2")
    stages, steps_before = stages_of(tiny(*options)), 0
    for stage in stages:
        for moment in moments(stage, stages):
            with pytest.raises(KilledError):
                train(tiny("name=killed", *options), listener=killer(stage, *moment, steps_before))
        steps_before += n_steps(stage)
    killed = train(tiny("name=killed", *options))
    assert steps_logged(killed.directory) == list(range(1, steps_before + 1))
    undisturbed = train(tiny("name=undisturbed", *options))
    assert_bit_equal(newest_state(undisturbed.directory), newest_state(killed.directory))
    assert killed.embed_table(killed.dataset.query).shape[1] == killed.model.dim
