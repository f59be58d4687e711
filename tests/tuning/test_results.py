"""Outputs of a search, computed from its journal: a table, a recipe, plots and a report."""

import re

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from reid_ray.cli import app
from reid_ray.cli.tune import verdict
from reid_ray.config import load_config
from reid_ray.errors import RunError
from reid_ray.reports.page import REPORT_NAME
from reid_ray.tuning.phases import final_phase, search_phase, seed_phase, seeded
from reid_ray.tuning.plots import importance
from reid_ray.tuning.report import report_search
from reid_ray.tuning.results import best_config, read_results, repeated, write_results
from reid_ray.tuning.spaces import own_values, with_values
from reid_ray.tuning.study import Row, best_first, enqueue

SCORES = (0.3, 0.5, 0.0, 0.6, 0.2, 0.55)


@pytest.fixture
def finished(make_search):
    """A search with six trials, the fourth of which is the best."""

    def run(*overrides, **options):
        search = make_search(*overrides, **options)
        for score in SCORES:
            trial, _ = search.ask()
            scores = (score, 1 + score) if "hours" in search.request.objectives else (score,)
            search.tell(trial, *scores, state="complete" if score else "degenerate")
        return search

    return run


def tell_stage(search, stage, points, score_of):
    """Run a later phase of a search: all points, with the scores of `score_of`."""
    search.stage = stage
    search.restart()
    enqueue(search.study, seeded(points, stage))
    for _ in seeded(points, stage):
        trial, values = search.ask()
        search.tell(trial, score_of(values))


def test_the_best_trial_as_a_recipe(finished):
    search = finished("data.holdout=0.3", objectives=["map"])
    write_results(read_results(search.directory.path))
    best = load_config(search.directory.best)
    values = best_first(read_results(search.directory.path).rows)[0].values
    trial = search_phase(search.request).config_of(values)
    assert trial.data.holdout == 0.3
    assert best.name == "s-best"
    request = search.request.config
    as_trial = best.model_copy(
        update={"name": trial.name, "output": trial.output, "evaluation": trial.evaluation, "data": trial.data}
    )
    assert as_trial == trial
    assert best.data == request.data.model_copy(update={"holdout": 0.3})
    assert (best.output, best.runtime, best.seed) == (request.output, request.runtime, request.seed)


def test_holdout_of_the_search_is_not_in_the_recipe(finished):
    search = finished(objectives=["map"])
    assert search_phase(search.request).base.data.holdout > 0
    assert best_config(read_results(search.directory.path)).data.holdout == 0


def test_one_row_per_trial(finished):
    search = finished(objectives=["label-free", "hours"])
    results = read_results(search.directory.path)
    write_results(results)
    table = pq.read_table(search.directory.table).to_pylist()
    assert [row["model_score"] for row in table] == list(SCORES)
    assert [row["hours"] for row in table] == [1 + score for score in SCORES]
    assert {row["stage"] for row in table} == {"search"}
    assert [row["state"] for row in table].count("degenerate") == 1
    assert all({"labels.eps", "labels.k1", "id", "number", "seconds", "reason"} <= set(row) for row in table)
    assert table[0]["id"] == results.rows[0].id


def test_more_seeds_choose_the_winner(finished):
    search = finished()
    best = [row.values for row in best_first(read_results(search.directory.path).rows)]
    assert read_results(search.directory.path).winner == best[0]
    tell_stage(search, seed_phase(search.request, best[:2], 2), best[:2], lambda v: 0.9 if matches(v, best[1]) else 0.1)
    results = read_results(search.directory.path)
    assert results.winner == best[1]
    assert [point.scores for point in results.repeats] == [{1: 0.9, 2: 0.9}, {1: 0.1, 2: 0.1}]
    assert best_config(results).labels.k1 == best[1]["labels.k1"]


def test_failed_seed_is_not_in_the_mean():
    rows = [
        Row(0, "a", "complete", {"labels.k1": 20, "seed": 1}, (0.4,)),
        Row(1, "b", "failed", {"labels.k1": 20, "seed": 2}),
        Row(2, "c", "complete", {"seed": 3, "labels.k1": 20}, (0.6,)),
    ]
    (point,) = repeated(rows)
    assert (point.values, point.scores, point.n_runs) == ({"labels.k1": 20}, {1: 0.4, 3: 0.6}, 3)
    assert point.mean == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("gain", "part"), [(0.1, "beats the recipe: mAP +10.0"), (-0.1, "does not beat the recipe: mAP -10.0")]
)
def test_verdict_uses_new_seeds(finished, gain, part):
    search = finished()
    results = read_results(search.directory.path)
    assert results.winner != results.own
    points = [results.winner, results.own]
    stage = final_phase(search.request, points, 3)
    tell_stage(search, stage, points, lambda v: 0.5 + gain * matches(v, results.winner))
    results = read_results(search.directory.path)
    assert part in verdict(results)
    write_results(results)
    rows = pq.read_table(search.directory.table).to_pylist()
    assert {row["stage"] for row in rows} == {"search", "final"}
    assert sum(row["mAP"] is not None for row in rows) == 6


def test_recipe_may_be_the_winner(make_search):
    search = make_search()
    own = own_values(search.request.config, search.request.space)
    enqueue(search.study, [own])
    for score in (0.5, 0.4):
        trial, _ = search.ask()
        search.tell(trial, score)
    results = read_results(search.directory.path)
    assert results.winner == results.own == own
    assert "own values are the winner" in verdict(results)


def test_swept_settings_are_in_the_recipe(make_search):
    search = make_search(wanted=["method.temperature_hard"], sweep=["eps=.4:.6:.1"])
    trial, values = search.ask()
    search.tell(trial, 0.4, swept={"labels.eps": 0.4})
    results = read_results(search.directory.path)
    assert results.winner == {**values, "labels.eps": 0.4}
    assert results.own == own_values(search.request.config, ["method.temperature_hard", "labels.eps"])
    assert best_config(results).labels.eps == 0.4


def test_swept_settings_go_on_to_more_seeds(make_search):
    search = make_search(wanted=["labels.k1=4:12"], sweep=["eps=.4:.8:.1"])
    for score, eps in ((0.5, 0.4), (0.7, 0.6)):
        trial, _ = search.ask()
        search.tell(trial, score, swept={"labels.eps": eps})
    best = [row.point for row in best_first(read_results(search.directory.path).rows)]
    assert [point["labels.eps"] for point in best] == [0.6, 0.4]
    tell_stage(search, seed_phase(search.request, best, 2), best, lambda v: 0.9 if matches(v, best[1]) else 0.1)
    assert read_results(search.directory.path).winner == best[1]


def test_search_without_a_score_has_no_winner(make_search):
    search = make_search()
    assert read_results(search.directory.path).rows == []
    trial, _ = search.ask()
    search.tell(trial, 0.0, state="failed", reason="no memory in it")
    results = read_results(search.directory.path)
    with pytest.raises(RunError, match="no memory in it"):
        best_config(results)
    write_results(results)
    assert not search.directory.best.exists()
    assert report_search(search.directory.path).exists()


@pytest.mark.parametrize("objectives", [["label-free"], ["map", "hours"]])
def test_report_is_complete(finished, objectives):
    search = finished(objectives=objectives)
    results = read_results(search.directory.path)
    points = [results.winner, results.own]
    tell_stage(search, final_phase(search.request, points, 2), points, lambda values: 0.5)
    answer = CliRunner().invoke(app, ["report", str(search.directory.path)])
    assert answer.exit_code == 0, answer.output
    page = (search.directory.path / REPORT_NAME).read_text()
    assert page.count("data:image/png") == 4
    for row in read_results(search.directory.path).rows:
        assert row.id in page
    assert ("Pareto front" in page) == (len(objectives) == 2)
    assert "on the test split" in page
    assert "degenerate" in page
    assert not re.search(r"\bnan\b", page)


def test_importance_finds_the_relevant_key(make_search):
    search = make_search()
    for _ in range(12):
        trial, values = search.ask()
        search.tell(trial, values["labels.eps"] - 0.2)
    rows = read_results(search.directory.path).rows
    weights = importance(rows, search.request.space)
    assert next(iter(weights)) == "labels.eps"
    assert weights["labels.eps"] > 0.8
    assert importance(rows[:4], search.request.space) is None
    assert importance([row for row in rows if row.scores == rows[0].scores] * 6, search.request.space) is None


def matches(values, point):
    return all(values[key] == value for key, value in point.items())


def test_values_of_the_recipe_outside_of_the_ranges_can_be_compared(make_search):
    search = make_search("labels.eps=0.9")
    trial, _ = search.ask()
    search.tell(trial, 0.4)
    results = read_results(search.directory.path)
    stage = final_phase(search.request, [results.winner, results.own], 1)
    tell_stage(search, stage, [results.winner, results.own], lambda values: values["labels.eps"])
    assert read_results(search.directory.path).final[1].values == results.own
    assert with_values(search.request.config, results.own) == search.request.config


@pytest.mark.parametrize(("best", "kept"), [(0.315, True), (0.35, False)])
def test_recipe_is_kept_where_the_label_free_scores_do_not_separate(make_search, best, kept):
    search = make_search()
    enqueue(search.study, [own_values(search.request.config, list(search.request.space))])
    for score in (0.3, 0.1, best, 0.2):
        trial, _ = search.ask()
        search.tell(trial, score)
    results = read_results(search.directory.path)
    assert results.is_undecided == kept
    assert (results.winner == results.own) == kept
    assert ("do not separate" in verdict(results)) == kept
    assert results.winner in ([results.own] if kept else [best_first(results.rows)[0].point])


def test_identities_separate_what_the_label_free_scores_do_not(make_search):
    search = make_search(objectives=["map"])
    enqueue(search.study, [own_values(search.request.config, list(search.request.space))])
    for score in (0.3, 0.301):
        trial, _ = search.ask()
        search.tell(trial, score)
    results = read_results(search.directory.path)
    assert not results.is_undecided
    assert results.winner == best_first(results.rows)[0].point != results.own
