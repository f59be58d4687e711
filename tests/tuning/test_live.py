"""Progress output of a running search."""

import io

from rich.console import Console

from reid_ray.training.metrics import MetricsLog
from reid_ray.tuning.capacity import Capacity
from reid_ray.tuning.live import Board, line_of
from reid_ray.tuning.search import View
from reid_ray.tuning.study import read_rows

ROOM = Capacity(2, {"CPU": 1.0}, "cpu", 1, 1.0)


def view_of(search):
    return View(search.stage, search.study, 4, ROOM)


def seen(search, work, *, terminal):
    """The console output during `work`."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160)
    with Board(console)(view_of(search)):
        work()
    return out.getvalue()


def test_one_line_per_finished_trial(make_search):
    search = make_search()
    before, _ = search.ask()
    search.tell(before, 0.3)

    def work():
        for score, state in ((0.5, "complete"), (0.0, "degenerate"), (0.0, "failed")):
            trial, _ = search.ask()
            search.tell(trial, score, state=state, reason="[because]")

    text = seen(search, work, terminal=False)
    assert "4 trials, 1 of them from before, 2 at a time on cpu" in text
    assert "trial 2/4" in text
    assert "model_score 0.5000, best so far" in text
    assert "degenerate: [because]" in text
    assert "failed: [because]" in text
    assert text.count("trial ") == 3


def test_table_shows_running_trials_and_the_best(make_search):
    search = make_search()
    trial, _ = search.ask()
    search.tell(trial, 0.3)
    _, values = search.ask()
    run = search.stage.folder / search.stage.id_of(values)
    run.mkdir()
    log = MetricsLog(run / "metrics.jsonl")
    log.write("start")
    log.write("epoch", epoch=0)
    log.write("step", epoch=1, step=3)
    text = seen(search, lambda: None, terminal=True)
    assert run.name in text
    assert "2/2" in text
    assert "step 3" in text
    assert "best model_score 0.3000" in text
    assert f"eps={values['labels.eps']}" in text


def test_stopped_trial_is_marked(make_search):
    search = make_search(objectives=["map"], stop_early="yes")
    trial, _ = search.ask()
    search.tell(trial, 0.2, state="running", final=False)
    rows = read_rows(search.study, 0)
    assert "mAP 0.2000 (stopped)" in line_of(rows[0], view_of(search), rows, 1)
