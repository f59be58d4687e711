"""Validation of search requests, and ownership of search directories."""

import pytest
from small_runs import tiny_config

from reid_ray.errors import ConfigError, RunError
from reid_ray.tuning.request import HOLDOUT, SearchDirectory, final_base, make_request, read_request, trial_base


@pytest.fixture
def ask(tmp_path):
    return lambda *overrides, name="s", **options: make_request(tiny_config(tmp_path, *overrides), name=name, **options)


def test_map_trials_hold_out_people_and_label_free_trials_are_not_evaluated(ask):
    free = trial_base(ask("evaluation.every=2", "evaluation.at_start=true"))
    assert (free.evaluation.every, free.evaluation.at_start, free.data.holdout) == (None, False, 0)
    held = trial_base(ask("evaluation.every=2", objectives=["map"]))
    assert (held.evaluation.every, held.data.holdout) == (2, HOLDOUT)
    assert trial_base(ask("data.holdout=0.5", objectives=["map"])).data.holdout == 0.5
    assert trial_base(ask("evaluation.every=null", objectives=["map"])).evaluation.every == 0
    final = final_base(ask("data.holdout=0.5", "evaluation.every=null", objectives=["map"]))
    assert (final.evaluation.every, final.data.holdout) == (0, 0)


@pytest.mark.parametrize(
    ("epochs", "objectives", "stop_early", "expected"),
    [
        (20, ["map"], "auto", True),
        (9, ["map"], "auto", False),
        (2, ["map"], "yes", True),
        (20, ["map"], "no", False),
        (20, ["label-free"], "auto", False),
        (20, ["map", "hours"], "auto", False),
    ],
)
def test_long_evaluated_trials_may_be_stopped_early(ask, epochs, objectives, stop_early, expected):
    request = ask(f"training.epochs={epochs}", objectives=objectives, stop_early=stop_early)
    assert request.stop_early is expected


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"objectives": ["hours"]}, "label-free or map"),
        ({"objectives": ["map", "label-free"]}, "label-free or map"),
        ({"objectives": ["mAP"]}, "label-free or map"),
        ({"stop_early": "yes"}, "--objective map alone"),
        ({"stop_early": "yes", "objectives": ["map", "hours"]}, "--objective map alone"),
        ({"sweep": ["eps=.4:.6:.1"], "objectives": ["map"]}, "needs --objective label-free"),
        ({"sweep": ["eps=.4:.6:.1"], "wanted": ["labels.eps"]}, "in both --search and --sweep"),
        ({"sweep": ["epsilon=.4"]}, "cannot be swept"),
    ],
)
def test_conflicting_options_are_refused(ask, options, part):
    with pytest.raises(ConfigError, match=part):
        ask(**options)


def test_swept_keys_are_not_searched(ask):
    assert {"labels.eps", "labels.k1"} <= set(ask().space)
    assert not {"labels.eps", "labels.k1"} & set(ask(sweep=["eps=.4:.6:.1", "k1=4,6"]).space)


def test_request_round_trip(ask, tmp_path):
    wanted = ["labels.eps", "model.pooling=avg,gem", "labels.k1=4:8", "method.weight_soft"]
    request = ask(wanted=wanted, objectives=["map", "hours"])
    with SearchDirectory.of(request).owned(request):
        assert read_request(tmp_path / "s") == request
    (tmp_path / "s" / "search.yaml").write_text("objectives: 3")
    with pytest.raises(RunError, match="cannot be read as a search"):
        read_request(tmp_path / "s")


def test_directory_belongs_to_one_search(ask, tmp_path):
    request = ask()
    directory = SearchDirectory.of(request)
    with directory.owned(request):
        (directory.trials / "0a1b2c3d").mkdir()
        with pytest.raises(RunError, match="Another process"), directory.owned(request):
            pass
    with directory.owned(request):  # again, after the other has ended
        pass
    with pytest.raises(RunError, match=r"labels.k2 was 2 and is 3"), directory.owned(ask("labels.k2=3")):
        pass
    for other in (
        ask("training.epochs=3"),
        ask(wanted=["labels.eps"]),
        ask(wanted=["labels.eps=.3:.5"]),
        ask("seed=1"),
        ask(objectives=["map"]),
    ):
        with pytest.raises(RunError, match="holds another search"):
            directory.check(other)
    directory.check(ask("runtime.threads=2", "training.log_every=3", "evaluation.every=1"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunError, match="is not a search directory"):
        SearchDirectory.of(ask(name="other")).check(ask(name="other"))


def test_directory_without_trials_may_change_its_request(ask, tmp_path):
    with SearchDirectory.of(ask()).owned(ask()):
        pass
    other = ask("labels.k2=3")
    with SearchDirectory.of(other).owned(other):
        assert read_request(tmp_path / "s") == other
