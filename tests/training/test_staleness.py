"""Labels that are made while the epoch before trains: by which teacher, and the same after a kill."""

import pytest
from small_runs import assert_bit_equal, newest_state

from reid_ray.api import train
from reid_ray.training.services import InlineServices

STALE = ("labels.staleness=1", "training.epochs=3", "training.checkpoint_every=2", "training.keep_checkpoints=2")


class KilledError(Exception):
    pass


@pytest.fixture
def refreshes(monkeypatch):
    """(epoch the labels are for, a weight of the teacher that makes them, whether there were labels before)."""
    seen = []
    begin = InlineServices.begin_labels

    def recorded(self, request, retriever):
        weight = float(retriever.network.backbone.conv1.weight.sum())
        seen.append((request.epoch, weight, "train" in request.previous))
        begin(self, request, retriever)

    monkeypatch.setattr(InlineServices, "begin_labels", recorded)
    return seen


def test_labels_come_from_the_teacher_of_the_epoch_before(tiny, refreshes):
    """Fresh labels of epoch e are the teacher's after e epochs, stale ones its after e − 1."""
    fresh = train(tiny("name=fresh", *STALE, "labels.staleness=0"))
    teachers = {version: weight for version, weight, _ in refreshes}
    assert len(set(teachers.values())) == 3
    refreshes.clear()
    stale = train(tiny("name=stale", *STALE))
    assert [version for version, _, _ in refreshes] == [0, 1, 2]
    assert [previous for _, _, previous in refreshes] == [False, True, True]
    weights = [weight for _, weight, _ in refreshes]
    assert weights[0] == weights[1] == teachers[0]
    assert weights[2] == teachers[1], "the first epoch had the same labels, so its teacher is the same"
    assert stale.labels(1)["label"] == stale.labels(0)["label"]
    assert [run.metrics("refresh")[-1]["epoch"] for run in (fresh, stale)] == [2, 2]
    assert all(event["wait_seconds"] >= 0 for event in stale.metrics("refresh"))


@pytest.mark.parametrize(
    "moment",
    [("refresh", 1), ("step", 7), ("epoch", 1), ("refresh", 2), ("step", 11)],
    ids=lambda moment: f"{moment[0]}-{moment[1]}",
)
def test_a_killed_run_goes_on_with_the_labels_it_was_waiting_for(tiny, moment):
    def killer(event):
        kind, number = moment
        if event["event"] == kind and event["global_step" if kind == "step" else "epoch"] == number:
            raise KilledError

    with pytest.raises(KilledError):
        train(tiny("name=killed", *STALE), listener=killer)
    killed = train(tiny("name=killed", *STALE))
    undisturbed = train(tiny("name=undisturbed", *STALE))
    assert_bit_equal(newest_state(undisturbed.directory), newest_state(killed.directory))
