"""The journal is authoritative: no trial is lost or duplicated whenever the process ends, and reasons are kept."""

import math

import optuna
import pytest
from optuna.trial import TrialState

from reid_ray.tuning.spaces import starting_point
from reid_ray.tuning.study import best_first, enqueue, n_done, pareto_front, read_rows, recover, repair, sampler


def rows(make_search):
    return read_rows(make_search.study, make_search.stage.base.seed)


def test_values_of_the_recipe_come_first_and_once(make_search):
    search = make_search()
    own = starting_point(search.request.config, search.request.space)
    for _ in range(3):
        enqueue(search.study, [own])
        search.restart()
    assert search.ask()[1] == own
    assert search.ask()[1] != own


def test_search_killed_between_ask_and_tell_resumes_with_the_same_values(make_search):
    search = make_search()
    first, _ = search.ask()
    search.tell(first, 0.4)
    _, second = search.ask()
    _, third = search.ask()
    for _ in range(2):  # killed, and killed again before anything was asked for
        search.restart()
        recover(search.study)
        assert n_done(rows(search)) == 1
    asked = [search.ask()[1] for _ in range(3)]
    assert asked[:2] == [second, third]
    assert asked[2] not in (second, third)
    assert [row.state for row in rows(search)] == ["complete", "running", "running", "running"]
    assert [row.scores for row in best_first(rows(search))] == [(0.4,)]


def test_process_killed_during_recovery_loses_and_duplicates_nothing(make_search, monkeypatch):
    search = make_search()
    left = [search.ask()[1] for _ in range(2)]
    search.restart()
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            recover(search.study)
    search.restart()
    recover(search.study)
    asked = [search.ask()[1] for _ in range(3)]
    assert asked[:2] == left
    assert asked[2] not in left


def test_samples_are_not_repeated_after_a_restart(make_search):
    search = make_search()
    drawn = []
    for _ in range(3):
        trial, values = search.ask()
        search.tell(trial, 0.1)
        drawn.append(str(values))
        search.restart()
    assert len(set(drawn)) == 3
    assert sampler(search.stage, None, 0)._n_startup_trials > sampler(search.stage, 9, 0)._n_startup_trials


def test_partial_line_and_lock_of_a_killed_process_are_repaired(make_search):
    search = make_search()
    trial, _ = search.ask()
    search.tell(trial, 0.3)
    journal = search.directory.journal
    with journal.open("ab") as file:
        file.write(b'{"op_code": 5, "worker')
    lock = journal.with_name("study.journal.lock")
    lock.symlink_to(journal)
    repair(journal)
    search.restart()
    trial, _ = search.ask()
    search.tell(trial, 0.5)
    assert [row.scores for row in rows(search)] == [(0.3,), (0.5,)]
    assert not lock.is_symlink()


def test_outcome_is_recorded_with_the_reason(make_search):
    search = make_search()
    for state, scores, final in (
        ("complete", (0.5,), True),
        ("degenerate", (0.0,), True),
        ("diverged", (0.0,), True),
        ("failed", (0.0,), True),
        ("running", (0.3,), False),  # what Ray Tune knows of a trial that it stops
    ):
        trial, _ = search.ask()
        search.tell(trial, *scores, state=state, reason=f"because it is {state}", final=final)
    trial, _ = search.ask()
    search.searcher.on_trial_complete(trial, error=True)  # its process is gone
    found = rows(search)
    assert [row.state for row in found] == ["complete", "degenerate", "diverged", "failed", "stopped", "failed"]
    assert [row.scores for row in found] == [(0.5,), (0.0,), (0.0,), (), (0.3,), ()]
    assert found[1].reason == "because it is degenerate"
    assert "process died" in found[-1].reason
    assert found[0].measures == {"seconds": 3.0, "epochs": 2.0}
    assert n_done(found) == 6 == search.n_told
    states = [trial.state for trial in search.study.trials]
    assert states.count(TrialState.FAIL) == 2
    assert not any(math.isnan(trial.value) for trial in search.study.trials if trial.value is not None)


def test_trials_with_equal_values_do_not_run_together(make_search):
    search = make_search(wanted=["labels.k2=2,3"])
    asked = {}
    while len(asked) < 2:
        trial, values = search.ask()
        asked[trial] = values
    (first, _), _ = asked.items()
    assert search.ask()[1] is None
    assert search.ask()[1] is None
    search.tell(first, 0.2)
    later = search.ask()[1]
    if later is None:  # the other's twin was held: it comes when that one has ended
        search.tell(list(asked)[1], 0.3)
        later = search.ask()[1]
    assert later in asked.values()


def test_search_in_which_all_trials_fail_gives_up(make_search):
    search = make_search()
    for _ in range(5):
        trial, _ = search.ask()
        search.tell(trial, 0.0, state="failed", reason="no")
    assert search.ask()[1] == search.searcher.FINISHED


def test_pareto_front_of_quality_and_hours(make_search):
    search = make_search(objectives=["label-free", "hours"])
    for scores in ((0.5, 2.0), (0.6, 3.0), (0.4, 2.5), (0.4, 1.0), (0.6, 3.5), (0.7, 9.0)):
        trial, _ = search.ask()
        search.tell(trial, *scores)
    assert [row.scores for row in pareto_front(rows(search))] == [(0.7, 9.0), (0.6, 3.0), (0.5, 2.0), (0.4, 1.0)]
    assert best_first(rows(search))[0].scores == (0.7, 9.0)
    assert {tuple(trial.values) for trial in search.study.best_trials} == {
        row.scores for row in pareto_front(rows(search))
    }


def test_run_that_was_requested_twice_is_listed_once(make_search):
    search = make_search(wanted=["labels.k2=2,3"])
    for score in (0.1, 0.2, 0.3, 0.4, 0.5):
        trial, _ = search.ask()
        search.tell(trial, score)
    ranked = best_first(rows(search))
    assert len(ranked) == len({row.id for row in ranked}) == 2
    assert ranked[0].scores == (0.5,)
