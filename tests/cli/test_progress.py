"""Progress output of a run: a line per event, a bar on a terminal, and the comparison of the demo."""

import io

import pytest
from rich.console import Console
from small_runs import TINY
from typer.testing import CliRunner

from reid_ray.cli import app, progress
from reid_ray.cli.progress import RunProgress, counting, describe, make_console
from reid_ray.cli.train import comparison_table, is_main_process, train_with_progress

STEP = {"event": "step", "stage": "main", "epoch": 1, "step": 3, "n_steps": 4, "global_step": 7, "loss": 1.23456}
START = {
    "event": "start",
    "stage": "main",
    "epoch": 0,
    "step": 0,
    "epochs": 2,
    "iterations": 4,
    "n_images": 9,
    "n_workers": 2,
    "device": "cpu",
    "precision": "float32",
    "startup_seconds": 1.5,
}
REFRESH = {
    "event": "refresh",
    "stage": "main",
    "epoch": 0,
    "n_clusters": 5,
    "n_outliers": 2,
    "extract_seconds": 1.0,
    "label_seconds": 2.0,
    "degenerate": False,
}


@pytest.mark.parametrize(
    ("event", "parts"),
    [
        (START, ["stage main: 9 images", "workers: 2 on cpu", "1.5 s"]),
        ({**START, "epoch": 1, "step": 3}, ["resuming at epoch 2, step 3"]),
        ({**START, "step": 3}, ["resuming at epoch 1, step 3"]),
        (REFRESH, ["epoch 1: 5 clusters, 2 outliers (1.0 s extraction, 2.0 s labelling)"]),
        ({**REFRESH, "ari": 0.5, "nmi": None}, ["2 outliers, ARI 0.500 ("]),
        ({**REFRESH, "degenerate": True}, ["(1.0 s extraction, 2.0 s labelling)  [degenerate"]),
        ({**REFRESH, "extract_seconds": None}, ["2 outliers (2.0 s labelling)"]),
        (STEP, ["epoch 2, step 3: loss 1.235"]),
        ({**STEP, "loss": None}, ["not finite"]),
        ({"event": "epoch", "epoch": 0, "train_seconds": 2.0, "images_per_second": 33.4}, ["epoch 1", "33 images/s"]),
        ({"event": "evaluate", "epoch": 1, "mAP": 0.5, "R1": 0.75, "evaluate_seconds": 1}, ["mAP 50.0%", "R1 75.0%"]),
        ({"event": "end", "epochs": 3, "seconds": 61}, ["3 epochs, 61 s"]),
    ],
)
def test_one_line_per_event(event, parts):
    line = describe(event)
    assert all(part in line for part in parts), line


def test_ground_truth_labels_have_no_timings():
    known = {key: value for key, value in REFRESH.items() if not key.endswith("_seconds")}
    assert describe(known) == "labels    epoch 1: 5 clusters, 2 outliers"


def shown(events, *, terminal):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200)
    with RunProgress(console) as bars:
        for event in events:
            bars(event)
    return stream.getvalue()


def test_step_lines_are_throttled_without_a_terminal(monkeypatch):
    clock = iter([100.0, 100.0, 101.0, 120.0, 120.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    steps = [{**STEP, "step": step} for step in (1, 2, 3)]
    text = shown([START, *steps, {"event": "end", "epochs": 2, "seconds": 1}], terminal=False)
    assert [line.split()[0] for line in text.splitlines()] == ["start", "step", "step", "end"]
    assert "step 1:" in text
    assert "step 3:" in text


def test_on_a_terminal_steps_move_a_bar():
    stream = io.StringIO()
    with RunProgress(Console(file=stream, force_terminal=True, width=200)) as bars:
        task = bars._bars.tasks[0]
        assert (task.total, task.description) == (None, "starting")
        bars(START)
        assert (task.total, task.description) == (8, "refreshing labels")
        bars(REFRESH)
        assert task.description == "main, epoch 1/2"
        bars(STEP)
        assert (task.completed, task.total, task.description) == (7, 8, "main, epoch 2/2")
        assert task.fields["note"] == "loss 1.235"
        bars({**STEP, "loss": None})
        assert task.fields["note"] == "loss not finite"
        bars({"event": "epoch", "stage": "main", "epoch": 1, "train_seconds": 2.0, "images_per_second": 33.4})
        assert task.description == "evaluating"
        bars({"event": "evaluate", "stage": "main", "epoch": 2, "mAP": 0.5, "R1": 0.75, "evaluate_seconds": 1})
        assert task.description == "refreshing labels"
    assert "2 outliers" in stream.getvalue()
    assert "step 3: loss" not in stream.getvalue()


def test_bar_covers_one_stage():
    """Its total is that of the stage; with `iterations: null` it is known at the first step."""
    with RunProgress(Console(file=io.StringIO(), force_terminal=True, width=200)) as bars:
        task = bars._bars.tasks[0]
        bars({**START, "stage": "source", "epochs": 3, "iterations": None})
        assert task.total is None
        bars({**STEP, "stage": "source", "epoch": 1, "step": 2, "n_steps": 5})
        assert (task.completed, task.total, task.description) == (7, 15, "source, epoch 2/3")
        bars(START)
        assert (task.total, task.description) == (8, "refreshing labels")


def test_console_without_a_terminal_is_wide_enough_for_tables():
    assert make_console().width == progress.NO_TERMINAL_WIDTH


def test_counting_is_silent_without_a_terminal():
    stream = io.StringIO()
    with counting(Console(file=stream), "images", 3) as bars:
        bars.advance(bars.task_ids[0])
        assert bars.tasks[0].completed == 1
    assert stream.getvalue().strip() == ""


def test_only_the_main_process_prints(monkeypatch, tiny):
    assert is_main_process()
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()
    asked = []
    monkeypatch.setattr("reid_ray.api.train", lambda config, listener=None: asked.append(listener))
    train_with_progress(tiny(), make_console())
    monkeypatch.setenv("RANK", "0")
    train_with_progress(tiny(), make_console())
    assert asked[0] is None
    assert isinstance(asked[1], RunProgress)


def test_show_config_resolves_paths_like_a_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["train", "demo", "output=there", "--show-config"]).output
    assert f"output: {tmp_path / 'there'}" in shown.replace("\n", " ").replace("  ", " ")


def test_demo_compares_histogram_start_and_end(finished_run, monkeypatch):
    table = comparison_table(finished_run)  # it was not evaluated at the start
    assert list(table.columns[0].cells) == ["colour histogram", "network at the end"]
    last = finished_run.metrics("evaluate")[-1]
    assert list(table.columns[1].cells)[1] == f"{last['mAP']:.1%}"
    assert list(table.columns[2].cells)[1] == f"{last['R1']:.1%}"
    evaluations = [{**last, "epoch": 0, "mAP": 0.125}, last]
    monkeypatch.setattr(finished_run, "metrics", lambda event: evaluations)
    table = comparison_table(finished_run)
    assert list(table.columns[0].cells)[1:] == ["network at the start", "network at the end"]
    assert list(table.columns[1].cells)[1] == "12.5%"


def test_demo_runs_also_without_query_people(tmp_path):
    overrides = [*TINY, "training.epochs=1", "training.iterations=1", f"output={tmp_path}"]
    result = CliRunner().invoke(app, ["demo", *overrides, "evaluation.at_start=true"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "network at the start" in result.output
    assert "ranked.png" in result.output
    result = CliRunner().invoke(app, ["demo", *overrides, "name=blind", "data.synthetic.n_test_ids=0"])
    assert result.exit_code == 0, result.output
    assert "colour histogram" not in result.output
    assert "no query" in result.output
    assert "model-last.pt" in result.output
