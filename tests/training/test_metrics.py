"""metrics.jsonl: what is written can be read, by whom it is being written for, and is cut back with the run."""

import json
import math
import time

import numpy as np
import pytest
import torch

from reid_ray.training.metrics import MetricsFollower, MetricsLog, read_metrics


def test_an_event_is_one_line_of_plain_json(tmp_path):
    seen = []
    log = MetricsLog(tmp_path / "metrics.jsonl", seen.append)
    log.write("step", loss=1 / 3, lr=3.5e-4, n=np.int64(7), terms={"a": torch.tensor(2.0), "b": math.nan}, sizes=(1, 2))
    log.write("end", seconds=math.inf)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert list(first)[:2] == ["event", "time"]
    assert first["event"] == "step"
    assert {key: first[key] for key in ("loss", "lr", "n", "terms", "sizes")} == {
        "loss": 0.333333,
        "lr": 3.5e-4,
        "n": 7,
        "terms": {"a": 2.0, "b": None},
        "sizes": [1, 2],
    }
    assert second["seconds"] is None
    assert seen == [first, second] == read_metrics(tmp_path / "metrics.jsonl")


def test_other_workers_write_nothing():
    log = MetricsLog(None)
    log.write("end")
    log.rewind(3)
    assert log.position == 0


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"event": "start"}\n{"event": "st')
    assert read_metrics(path) == [{"event": "start"}]


def test_rewinding_forgets_what_came_after(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.rewind(0)
    assert not path.exists()
    log.write("start")
    position = log.position
    assert position == path.stat().st_size
    log.write("step")
    log.rewind(position)
    log.write("end")
    assert [event["event"] for event in read_metrics(path)] == ["start", "end"]


def test_a_log_that_lost_its_end_is_not_filled_up(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write("start")
    log.rewind(10_000)
    log.write("step")
    assert [event["event"] for event in read_metrics(path)] == ["start", "step"]


def test_a_follower_reads_whole_lines_from_where_it_began(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    early = MetricsFollower(path)
    assert early.read() == []
    log.write("start")
    late = MetricsFollower(path)
    log.write("step", step=1)
    with path.open("a") as file:
        file.write('{"time": 1, "event": "ste')
    assert [event["event"] for event in early.read()] == ["start", "step"]
    assert [event["event"] for event in late.read()] == ["step"]
    assert late.read() == []
    with path.open("a") as file:
        file.write('p"}\n')
    assert late.read() == [{"time": 1, "event": "step"}]


@pytest.mark.parametrize("n_lost", [1, 5])
@pytest.mark.parametrize("looks", [True, False])
def test_a_follower_sees_all_of_a_run_that_was_cut_back(tmp_path, monkeypatch, n_lost, looks):
    """Whether or not it looks between the cut and what is appended, and whatever becomes longer."""
    monkeypatch.setattr(time, "time", iter(range(100, 200)).__next__)
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write("start")
    kept = log.position
    follower = MetricsFollower(tmp_path / "metrics.jsonl")
    for step in range(n_lost):
        log.write("step", step=step)
    assert len(follower.read()) == n_lost
    log.rewind(kept)
    if looks:
        assert follower.read() == []
    log.write("start")
    log.write("step", step=0)
    assert [event["event"] for event in follower.read()] == ["start", "step"]
    log.rewind(0)
    log.write("start")
    assert [event["event"] for event in follower.read()] == ["start"]
    assert follower.read() == []
