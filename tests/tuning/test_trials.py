"""Scores and outcomes of trials; an error in a trial never ends the search."""

import pytest
from small_runs import tiny_config

from reid_ray.errors import DegenerateLabelsError, DivergedError, OutOfMemoryError
from reid_ray.tuning import trial
from reid_ray.tuning.capacity import Capacity
from reid_ray.tuning.phases import final_phase, run_id, search_phase, seed_phase, seeded
from reid_ray.tuning.request import make_request
from reid_ray.tuning.study import Outcome
from reid_ray.tuning.trial import Task, attempt, run_trial, score_labels, working_seconds

VALUES = {"labels.k1": 5, "labels.eps": 0.6}
ROOM = Capacity(2, {"CPU": 1.0}, "cpu", 1, 1.0)


@pytest.fixture
def ask(tmp_path):
    def build(*overrides, **options):
        return make_request(tiny_config(tmp_path, "training.epochs=1", *overrides), name="s", **options)

    return build


def config_of(stage, values=VALUES):
    return Task(stage, ROOM).config_of(values)


def test_trial_is_a_run_in_a_directory_named_by_its_values(ask, tmp_path):
    stage = search_phase(ask())
    config = config_of(stage)
    assert (config.labels.k1, config.labels.eps) == (5, 0.6)
    assert config.output == str(tmp_path / "s" / "trials")
    assert config.name == run_id(VALUES, 0) == run_id(dict(reversed(VALUES.items())), 0)
    others = [run_id(VALUES, 1), run_id({**VALUES, "labels.k1": 6}, 0), run_id({"labels.k1": 5}, 0)]
    assert len({config.name, *others}) == 4
    assert run_id({**VALUES, "seed": 1}, 0) == run_id(VALUES, 1)


def test_phases_use_different_seeds(ask):
    request = ask()
    points = [VALUES, {**VALUES, "labels.k1": 6}]
    again, final = seed_phase(request, points, 2), final_phase(request, points, 2)
    assert [point["seed"] for point in seeded(points, again)] == [1, 1, 2, 2]
    assert [config_of(again, point).seed for point in seeded(points, again)] == [1, 1, 2, 2]
    assert not {0, 1, 2} & {point["seed"] for point in seeded(points, final)}
    assert again.name != seed_phase(request, points, 3).name, "a study's choices are fixed"


def test_label_free_trial_is_scored_by_its_labels_and_never_evaluated(ask):
    stage = search_phase(ask())
    outcome = attempt(config_of(stage), stage)
    assert outcome.state == "complete", outcome.reason
    assert 0 <= outcome.quality <= 1
    run = trial.load_run(stage.folder / config_of(stage).name)
    assert not run.metrics("evaluate")
    assert score_labels(run, stage).quality == outcome.quality
    swept = score_labels(run, search_phase(ask(sweep=["eps=.4:.8:.1", "k1=3,6"])))
    assert set(swept.swept) == {"labels.eps", "labels.k1"}
    own = score_labels(run, search_phase(ask(sweep=["eps=.6", "k1=5"])))
    assert own.quality == swept.quality == pytest.approx(outcome.quality)  # the score of the model
    seconds = working_seconds(run.metrics())
    assert seconds == pytest.approx(run.metrics("end")[0]["seconds"], abs=1)


def test_map_trial_is_evaluated_on_held_out_people(ask):
    request = ask(objectives=["map"])
    stage = search_phase(request)
    config = config_of(stage)
    outcome = attempt(config, stage)
    assert outcome.state == "complete", outcome.reason
    run = trial.load_run(stage.folder / config.name)
    assert outcome.quality == run.metrics("evaluate")[-1]["mAP"]
    held, trained = set(run.dataset.query.pids), set(run.dataset.train.pids)
    assert held
    assert held | trained <= set(trial.load_run(run.path).dataset.table.pids)
    assert not held & trained


@pytest.mark.parametrize(
    ("error", "state", "quality"),
    [
        (DegenerateLabelsError("no clusters"), "degenerate", 0.0),
        (DivergedError("no number"), "diverged", 0.0),
        (OutOfMemoryError("no memory"), "failed", 0.0),
        (ValueError("a bug"), "failed", 0.0),
    ],
)
def test_outcome_has_the_reason(ask, monkeypatch, error, state, quality):
    def fail(config, listener):
        (stage.folder).mkdir(parents=True)
        raise error

    stage = search_phase(ask())
    monkeypatch.setattr(trial, "train", fail)
    outcome = attempt(config_of(stage), stage)
    assert (outcome.state, outcome.quality) == (state, quality)
    assert str(error) in outcome.reason
    logs = list(stage.folder.glob("*.log"))
    assert len(logs) == isinstance(error, ValueError)
    assert all("Traceback" in log.read_text() for log in logs)


def test_non_finite_objective_is_a_failure(ask, monkeypatch):
    stage = search_phase(ask())
    monkeypatch.setattr(trial, "train", lambda config, listener: trial.Run.__new__(trial.Run))
    monkeypatch.setattr(trial, "_evaluate", lambda run, config, stage: Outcome("complete", float("nan")))
    monkeypatch.setattr(trial.Run, "path", "somewhere")
    outcome = attempt(config_of(stage), stage)
    assert outcome.state == "failed"
    assert "not a finite number" in outcome.reason


def test_degenerate_labels_are_blamed_on_the_values(ask):
    stage = search_phase(ask())
    outcome = attempt(config_of(stage, {"labels.k1": 27, "labels.eps": 0.7}), stage)
    assert (outcome.state, outcome.quality) == ("degenerate", 0.0)
    assert "eps" in outcome.reason


def test_reports_carry_every_metric_and_never_fall(ask, monkeypatch):
    request = ask("training.epochs=4", objectives=["map"], stop_early="yes")
    reports = []
    monkeypatch.setattr(trial.tune, "report", reports.append)

    def train(config, listener):
        for epoch, value in ((1, 0.3), (2, 0.2), (3, None), (4, 0.5)):
            listener({"event": "evaluate", "epoch": epoch, "mAP": value})
            listener({"event": "epoch", "epoch": epoch})
        raise DegenerateLabelsError("at last")

    monkeypatch.setattr(trial, "train", train)
    run_trial(VALUES, Task(search_phase(request), ROOM))
    assert [report["mAP"] for report in reports] == [0.3, 0.3, 0.3, 0.0]
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4]
    assert [report["final"] for report in reports] == [False, False, False, True]
    assert [report["outcome"].state for report in reports] == [*["running"] * 3, "degenerate"]
    assert all({"mAP", "hours"} <= set(report) for report in reports)


def test_time_between_a_kill_and_the_restart_does_not_count():
    def event(kind, time, **fields):
        return {"event": kind, "time": time, **fields}

    events = [
        event("start", 100, startup_seconds=5),
        event("refresh", 110),
        event("step", 130),
        event("start", 1000, startup_seconds=7),
        event("step", 1004),
    ]
    assert working_seconds(events) == 5 + 30 + 7 + 4
    assert working_seconds([]) == 0
