"""metrics.jsonl: what is written can be read, by whom it is being written for, and is cut back with the run."""

import json
import math

import numpy as np
import torch

from reid_ray.training.metrics import MetricsFollower, MetricsLog, read_metrics


def test_an_event_is_one_line_of_plain_json(tmp_path):
    seen = []
    log = MetricsLog(tmp_path / "metrics.jsonl", seen.append)
    log.write("step", loss=1 / 3, lr=3.5e-4, n=np.int64(7), parts={"a": torch.tensor(2.0), "b": math.nan}, sizes=(1, 2))
    log.write("end", seconds=math.inf)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert list(first)[:2] == ["event", "time"]
    assert first["event"] == "step"
    assert {key: first[key] for key in ("loss", "lr", "n", "parts", "sizes")} == {
        "loss": 0.333333,
        "lr": 3.5e-4,
        "n": 7,
        "parts": {"a": 2.0, "b": None},
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
        file.write('{"event": "ste')
    assert [event["event"] for event in early.read()] == ["start", "step"]
    assert [event["event"] for event in late.read()] == ["step"]
    assert late.read() == []
    with path.open("a") as file:
        file.write('p"}\n')
    assert late.read() == [{"event": "step"}]


def test_a_follower_goes_on_after_the_log_was_cut_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write("start")
    kept = log.position
    follower = MetricsFollower(path)
    log.write("step", step=1)
    follower.read()
    log.rewind(kept)
    assert follower.read() == []
    log.write("step", step=2)
    assert [event["step"] for event in follower.read()] == [2]
