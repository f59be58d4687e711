"""Searches on Ray: killed and resumed, concurrent trials, too large for the cluster; nothing is left behind."""

import time

import pytest
from optuna.trial import TrialState
from small_processes import finish
from small_runs import tiny_config

from reid_ray.errors import ConfigError
from reid_ray.training.metrics import read_metrics
from reid_ray.tuning.request import Budget, make_request
from reid_ray.tuning.results import read_results
from reid_ray.tuning.search import search
from reid_ray.tuning.study import best_first, open_storage

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = ("--search", "labels.eps=.5:.8", "--search", "method.temperature_hard=.05:.3:log")


@pytest.fixture
def tune(tmp_path, process_group):
    """`tune("key=value", …, options=(…))`: `reid-ray tune` of the tiny run in a process group of its own."""

    def start(*overrides, options=()):
        config = tiny_config(tmp_path, "name=tiny", *overrides)
        return process_group(config, "tune", "--name", "s", *SPACE, *options)

    return start


def completed(journal):
    """Complete trials in the journal."""
    if not journal.exists() or not journal.stat().st_size:
        return []
    storage = open_storage(journal)
    return [
        trial
        for study in storage.get_all_studies()
        for trial in storage.get_all_trials(study._study_id)
        if trial.state == TrialState.COMPLETE
    ]


def gone(paths, seconds=40):
    """Whether all of these disappear soon: Ray's processes end a moment after their driver."""
    until = time.monotonic() + seconds
    while (left := [path for found in paths for path in found()]) and time.monotonic() < until:
        time.sleep(0.2)
    return not left


@pytest.mark.timeout(400)
def test_killed_search_resumes_and_no_trial_runs_twice(tune, tmp_path, ray_folder):
    """kill -9 of the driver with one trial finished and others running, then the same command."""
    options = ("--trials", "4", "--concurrent", "2")
    journal = tmp_path / "s" / "study.journal"
    process = tune(options=options)
    until = time.monotonic() + 150
    while not completed(journal) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.kill()
    process.wait()
    before = completed(journal)
    assert 1 <= len(before) < 4
    logs = {path: path.read_bytes() for path in tmp_path.glob("s/trials/*/metrics.jsonl")}
    done = [row for row in read_results(tmp_path / "s").rows if row.state == "complete"]
    assert gone([lambda: [*tmp_path.glob("s/.ray-*"), *ray_folder.glob("reid-*")]])

    output = finish(tune(options=options))
    assert f"4 trials, {len(before)} of them from before" in output
    after = {trial.number: trial for trial in completed(journal)}
    assert len(after) == 4
    results = read_results(tmp_path / "s")
    assert len({row.id for row in results.rows}) == 4 == len(list(tmp_path.glob("s/trials/*/config.yaml")))
    for row in done:
        assert after[row.number].values == list(row.scores)
        log = tmp_path / "s" / "trials" / row.id / "metrics.jsonl"
        assert log.read_bytes() == logs[log], "a finished trial was trained again"
    for log in tmp_path.glob("s/trials/*/metrics.jsonl"):
        steps = [event["global_step"] for event in read_metrics(log) if event["event"] == "step"]
        assert steps == list(range(1, 9))
    best = best_first(results.rows)[0].scores[0]
    assert best >= max(row.scores[0] for row in done)
    assert (tmp_path / "s" / "best.yaml").exists()
    assert sorted(path.name for path in (tmp_path / "s").iterdir() if path.suffix != ".png") == [
        *("best.yaml", "report.html", "search.yaml", "study.journal", "trials", "trials.parquet"),
    ]
    assert gone([lambda: list(ray_folder.glob("reid-*"))])


@pytest.mark.timeout(400)
def test_two_trials_with_trainers_and_pools_share_four_cpus(tune, ray_address, tmp_path, monkeypatch):
    """Each has a trainer with two CPUs and a pool, so two fit. A trial larger than the cluster is refused at once."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    on_ray = ("runtime.backend=ray", f"runtime.address={ray_address}", "training.epochs=1")
    larger = tiny_config(tmp_path, *on_ray, "runtime.n_workers=4", "runtime.cpus_per_worker=2")
    with pytest.raises(ConfigError, match="the cluster lacks 4 more CPUs"):
        search(make_request(larger, name="larger"), Budget(trials=2))
    assert not list(tmp_path.glob("larger/trials/*"))

    on_ray = (*on_ray, "runtime.cpus_per_worker=2")
    output = finish(tune(*on_ray, options=("--trials", "2")))
    assert "2 trials, 2 at a time" in output
    logs = [read_metrics(log) for log in tmp_path.glob("s/trials/*/metrics.jsonl")]
    spans = [(events[0]["time"], events[-1]["time"]) for events in logs]
    assert len(spans) == 2
    assert max(start for start, _ in spans) < min(end for _, end in spans), "one waited for the other"
    assert all(row.state == "complete" for row in read_results(tmp_path / "s").rows)
