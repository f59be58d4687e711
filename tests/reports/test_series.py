import math

import pytest

from reid_ray.reports.series import epoch_rows, headline, number, steps, tabulate_epochs


def evaluate(epoch: int, value: float, **more):
    return {"event": "evaluate", "epoch": epoch, "mAP": value, "R1": value + 0.1, **more}


EVENTS = [
    {"event": "start", "epoch": 0, "n_images": 100},
    evaluate(0, 0.05, evaluate_seconds=1.0),
    {"event": "refresh", "epoch": 0, "n_clusters": 7, "outlier_share": 0.5, "ari": None, "extract_seconds": 2.0},
    {"event": "step", "epoch": 0, "step": 1, "global_step": 1, "loss": 4.0},
    {"event": "step", "epoch": 0, "step": 2, "global_step": 2, "loss": 2.0},
    {"event": "epoch", "epoch": 0, "train_seconds": 8.0, "images_per_second": 64.0},
    evaluate(1, 0.30),
    {"event": "refresh", "epoch": 1, "n_clusters": 9, "outlier_share": 0.25, "ari": 0.5},
]


def test_epoch_row_has_labels_training_and_the_evaluation_after_it():
    start, first, second = epoch_rows(EVENTS)
    assert [row.epoch for row in (start, first, second)] == [0, 1, 2]
    assert (start.evaluation["mAP"], start.refresh, start.loss, start.seconds) == (0.05, {}, None, 1.0)
    assert (first.refresh["n_clusters"], first.loss, first.evaluation["mAP"]) == (7, 3.0, 0.30)
    assert first.seconds_per_part() == {"extract": 2.0, "train": 8.0}
    assert (second.refresh["n_clusters"], second.evaluation, second.seconds) == (9, {}, None)


def test_of_repeated_events_the_last_counts():
    again = [
        {"event": "step", "epoch": 0, "global_step": 2, "loss": 8.0},
        {"event": "refresh", "epoch": 1, "n_clusters": 11},
    ]
    rows = epoch_rows(EVENTS + again)
    assert [event["loss"] for event in steps(EVENTS + again)] == [4.0, 8.0]
    assert rows[1].loss == 6.0
    assert rows[2].refresh["n_clusters"] == 11


def test_headline_takes_the_earliest_of_ties():
    summary = headline([*EVENTS, evaluate(2, 0.4), evaluate(3, 0.4), evaluate(4, 0.1)])
    assert summary.start is EVENTS[1]
    assert [event and event["epoch"] for event in (summary.best, summary.last)] == [2, 4]


@pytest.mark.parametrize(
    ("kinds", "ended"),
    [([], False), (["start"], False), (["start", "end"], True), (["start", "end", "start"], False)],
)
def test_restarted_run_has_not_ended(kinds, ended):
    assert headline([{"event": kind} for kind in kinds]).ended is ended


def test_headline_without_evaluation():
    summary = headline([event for event in EVENTS if event["event"] != "evaluate"])
    assert (summary.start, summary.best, summary.last) == (None, None, None)


def test_table_leaves_out_empty_columns():
    headings, rows, best = tabulate_epochs(EVENTS)
    assert headings == ["epoch", "mAP", "R1", "clusters", "outliers", "ARI", "loss", "images/s", "seconds"]
    assert rows[0][:4] == ["start", "5.0", "15.0", ""]
    assert rows[1] == ["1", "30.0", "40.0", "7", "50.0%", "", "3.000", "64", "10"]
    assert best == 1
    assert tabulate_epochs([]) == ([], [], None)


@pytest.mark.parametrize("value", [None, "3", True, math.nan, math.inf, [1.0]])
def test_number_accepts_finite_numbers_only(value):
    assert number({"x": value}, "x") is None
    assert number({}, "x") is None
    assert number({"x": 3}, "x") == 3.0


def test_events_of_other_kinds_or_without_an_epoch_are_ignored():
    odd = [
        {},
        {"event": "resume", "epoch": 3},
        {"event": "refresh"},
        {"event": "step", "loss": 1.0},
        {"event": "epoch"},
    ]
    assert epoch_rows(odd) == []


def test_epochs_of_stages_are_separate(staged_events):
    rows = epoch_rows(staged_events)
    assert [(row.stage, row.epoch, row.position) for row in rows] == [
        *(("source", epoch, epoch) for epoch in (1, 2)),
        *(("main", epoch, 2 + epoch) for epoch in (0, 1, 2, 3)),
    ]
    assert [row.refresh.get("n_clusters") for row in rows] == [20, 19, None, 20, 19, 18]
    assert [bool(row.evaluation) for row in rows] == [False, False, True, True, True, True]
    assert [len(row.losses) for row in rows] == [5, 5, 0, 5, 5, 5]
    assert len(steps(staged_events)) == 25


def test_stage_column_with_several_stages(events, staged_events):
    headings, rows, best = tabulate_epochs(staged_events)
    assert headings[:3] == ["stage", "epoch", "mAP"]
    assert [row[:3] for row in rows] == [
        ["source", "1", ""],
        ["source", "2", ""],
        ["main", "start", "10.0"],
        ["main", "1", "25.0"],
        ["main", "2", "30.0"],
        ["main", "3", "25.0"],
    ]
    assert best == 4
    assert tabulate_epochs(events).headings[0] == "epoch"


def test_resumed_stage_has_each_epoch_once(staged_events):
    """Killed in its second epoch; the new process logs another start."""
    first = [event for event in staged_events if event["stage"] == "source"]
    again = [{**first[0], "epoch": 1, "step": 2}, *first[-3:], *staged_events[len(first) :]]
    assert [(row.stage, row.epoch, row.position) for row in epoch_rows([*first, *again])] == [
        (row.stage, row.epoch, row.position) for row in epoch_rows(staged_events)
    ]
