"""The journal is the truth: nothing is lost or asked for twice, whenever the process ends, and reasons are kept."""

import math

import optuna
import pytest
from optuna.trial import TrialState

from reid_ray.tuning.spaces import starting_point
from reid_ray.tuning.study import best_first, enqueue, mend, n_done, pareto_front, read_rows, recover, sampler


def rows(told):
    return read_rows(told.study, told.stage.base.seed)


def test_the_recipe_s_own_values_come_first_and_once(told):
    search = told()
    own = starting_point(search.request.config, search.request.space)
    for _ in range(3):
        enqueue(search.study, [own])
        search.restart()
    assert search.ask()[1] == own
    assert search.ask()[1] != own


def test_a_search_that_is_killed_between_ask_and_tell_goes_on_with_the_same_values(told):
    search = told()
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


def test_a_process_killed_while_it_recovers_loses_and_doubles_nothing(told, monkeypatch):
    search = told()
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


def test_draws_are_not_repeated_after_a_restart(told):
    search = told()
    drawn = []
    for _ in range(3):
        trial, values = search.ask()
        search.tell(trial, 0.1)
        drawn.append(str(values))
        search.restart()
    assert len(set(drawn)) == 3
    assert sampler(search.stage, None, 0)._n_startup_trials > sampler(search.stage, 9, 0)._n_startup_trials


def test_a_half_written_line_and_a_lock_of_a_killed_process_are_put_right(told):
    search = told()
    trial, _ = search.ask()
    search.tell(trial, 0.3)
    journal = search.directory.journal
    with journal.open("ab") as file:
        file.write(b'{"op_code": 5, "worker')
    lock = journal.with_name("study.journal.lock")
    lock.symlink_to(journal)
    mend(journal)
    search.restart()
    trial, _ = search.ask()
    search.tell(trial, 0.5)
    assert [row.scores for row in rows(search)] == [(0.3,), (0.5,)]
    assert not lock.is_symlink()


def test_how_trials_end_is_kept_with_the_reason(told):
    search = told()
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


def test_two_trials_with_the_same_values_are_not_under_way_together(told):
    search = told(wanted=["labels.k2=2,3"])
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


def test_a_search_in_which_all_fails_is_given_up(told):
    search = told()
    for _ in range(5):
        trial, _ = search.ask()
        search.tell(trial, 0.0, state="failed", reason="no")
    assert search.ask()[1] == search.searcher.FINISHED


def test_quality_and_hours_make_a_front(told):
    search = told(objectives=["label-free", "hours"])
    for scores in ((0.5, 2.0), (0.6, 3.0), (0.4, 2.5), (0.4, 1.0), (0.6, 3.5), (0.7, 9.0)):
        trial, _ = search.ask()
        search.tell(trial, *scores)
    assert [row.scores for row in pareto_front(rows(search))] == [(0.7, 9.0), (0.6, 3.0), (0.5, 2.0), (0.4, 1.0)]
    assert best_first(rows(search))[0].scores == (0.7, 9.0)
    assert {tuple(trial.values) for trial in search.study.best_trials} == {
        row.scores for row in pareto_front(rows(search))
    }


def test_a_run_that_was_asked_for_twice_stands_once(told):
    search = told(wanted=["labels.k2=2,3"])
    for score in (0.1, 0.2, 0.3, 0.4, 0.5):
        trial, _ = search.ask()
        search.tell(trial, score)
    ranked = best_first(rows(search))
    assert len(ranked) == len({row.id for row in ranked}) == 2
    assert ranked[0].scores == (0.5,)
