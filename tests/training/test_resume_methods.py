"""Killed is not lost, whatever the method: memories, classifiers and moments are those of a run that was not."""

import pytest
from small_runs import METHOD_RUNS, assert_bit_equal, newest_state, steps_logged

from reid_ray.api import train

MOMENTS = [("step", 1), ("step", 3), ("epoch", 0), ("refresh", 1), ("step", 7)]


class KilledError(Exception):
    pass


def killer(kind, number):
    def listen(event):
        if event["event"] == kind and event["global_step" if kind == "step" else "epoch"] == number:
            raise KilledError

    return listen


@pytest.mark.slow
@pytest.mark.parametrize("method", METHOD_RUNS)
def test_a_run_that_is_killed_again_and_again_ends_bit_equal(tiny, method):
    options = (*METHOD_RUNS[method], "training.checkpoint_every=2", "training.keep_checkpoints=2")
    for moment in MOMENTS:
        with pytest.raises(KilledError):
            train(tiny("name=killed", *options), listener=killer(*moment))
    killed = train(tiny("name=killed", *options))
    assert steps_logged(killed.directory) == list(range(1, 9))
    undisturbed = train(tiny("name=undisturbed", *options))
    assert_bit_equal(newest_state(undisturbed.directory), newest_state(killed.directory))
    assert killed.embed_table(killed.dataset.query).shape[1] == killed.model.dim
