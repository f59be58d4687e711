"""Failures of a cluster without Ray: how the training loop reacts. benchmarks/faults.py injects them into real runs."""

import threading
import time

import pytest
import ray

from reid_ray.errors import RunError
from reid_ray.runtime import actor_pool, gauges, preemption
from reid_ray.runtime.actor_pool import Extraction, Pool
from reid_ray.runtime.preemption import PreemptionNotice
from reid_ray.training.interrupt import Request


def test_each_preemption_notice_is_reported_once(monkeypatch):
    infos, asked = iter([None, "node 1", "node 1", "nodes 1 and 2", "nodes 1 and 2"]), threading.Semaphore(0)

    def info():
        asked.release()
        found = next(infos, None)
        if found is None and asked._value > 3:
            raise RuntimeError("the group is gone")
        return found

    monkeypatch.setattr(preemption, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(ray.train, "get_preemption_info", info)
    notice, heard, until = PreemptionNotice(), 0, time.monotonic() + 10
    while heard < 2 and time.monotonic() < until:
        heard += notice() == Request.SAVE
        time.sleep(0.001)
    assert heard == 2
    assert notice() == Request.NOTHING


class Clock:
    """`ray.wait` whose parts are ready after a number of restarts of their extractor."""

    def __init__(self, monkeypatch, needed):
        self.killed, self.needed = [], needed
        monkeypatch.setattr(ray, "wait", self.wait)
        monkeypatch.setattr(ray, "kill", lambda actor, no_restart: self.killed.append((actor, no_restart)))

    def wait(self, pending, *, num_returns, timeout, fetch_local):
        assert (num_returns, timeout) == (len(pending), 7)
        ready = [part for part in pending if self.needed[part] <= len(self.killed)]
        return ready, [part for part in pending if part not in ready]


def test_hung_extractors_are_restarted(monkeypatch):
    clock = Clock(monkeypatch, {"a": 0, "b": 2, "c": 0, "d": 2})
    pool = Pool(("first", "second"), (), timeout=7)
    extraction = Extraction(pool, ["a", "b", "c", "d"], [], [1, 1, 1, 1])
    extraction.wait()
    assert clock.killed == [("second", False), ("second", False)]


def test_extractors_without_progress_end_the_run(monkeypatch):
    clock = Clock(monkeypatch, {"a": 99})
    with pytest.raises(RunError, match=r"no progress for 28 s.*runtime\.timeout_seconds=7"):
        Extraction(Pool(("only",), (), timeout=7), ["a"], [], [64]).wait()
    assert len(clock.killed) == actor_pool.MAX_STALLS


def test_metrics_of_a_run_are_ray_gauges(monkeypatch):
    values = {}

    class Gauge:
        def __init__(self, name, description, tag_keys):
            assert description
            self.name = name

        def set_default_tags(self, tags):
            self.tags = tags

        def set(self, value):
            values[self.name, self.tags["run"]] = value

    monkeypatch.setattr(gauges, "Gauge", Gauge)
    listen = gauges.Gauges("mine")
    listen({"event": "step", "loss": 1.5, "lr": 0.1, "epoch": 2})
    listen({"event": "refresh", "n_clusters": 7, "staleness": 1, "wait_seconds": None})
    listen({"event": "evaluate", "epoch": 3, "lr": 0.2})  # epochs of evaluations are counted otherwise
    listen({"event": "end"})
    assert values["reid_loss", "mine"] == 1.5
    assert (values["reid_epoch", "mine"], values["reid_lr", "mine"]) == (2, 0.1)
    assert values["reid_clusters", "mine"] == 7
    assert values["reid_label_staleness", "mine"] == 1
    assert len(values) == 5
