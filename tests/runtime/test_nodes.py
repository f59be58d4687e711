"""Runs on a cluster of several nodes that lose nodes and processes. benchmarks/faults.py covers more cases."""

import json
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
from fault_bench import Bench, Job, wait_until_gone
from fault_injection import FAULTS
from faults import Trial
from small_cluster import FAST_HEALTH_CHECKS

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def trial():
    # Ray's processes may still write to the folder while it is removed.
    rays_folder = tempfile.TemporaryDirectory(prefix="rf-", dir="/tmp", ignore_cleanup_errors=True)
    with pytest.MonkeyPatch.context() as patch, rays_folder as folder:
        own = {"HOME": folder, "RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
        for name, value in {**own, **FAST_HEALTH_CHECKS}.items():
            patch.setenv(name, value)
        with Bench.of(Path(folder), n_nodes=3) as bench:
            yield Trial(bench)


@pytest.mark.parametrize("name", ["node"])
def test_weights_are_unchanged_and_nothing_is_left_behind(trial, name):
    """The weights are those of the undisturbed run; the trial also checks for leftover processes and files."""
    outcome = trial.do(name)
    assert outcome.lost == "nothing", outcome


def test_metrics_of_a_run_are_at_rays_prometheus_endpoints(trial):
    bench = trial.bench
    job = Job(bench, bench.config("watched", "training.iterations=1000", "training.epochs=1"))
    wanted = {"ray_reid_loss{", "ray_reid_clusters{", "ray_reid_refresh_wait_seconds{", "ray_reid_label_staleness{"}
    try:
        job.wait_for("step", 2)
        (service,) = json.loads((bench.folder / "ray" / "prom_metrics_service_discovery.json").read_text())
        until = time.monotonic() + 60
        while wanted and time.monotonic() < until:
            for target in service["targets"]:
                with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
                    lines = [line for line in answer.read().decode().splitlines() if 'run="watched"' in line]
                wanted -= {name for name in wanted if any(line.startswith(name) for line in lines)}
            time.sleep(1)
    finally:
        job.end()
        wait_until_gone(bench)
    assert not wanted


def test_the_table_has_twelve_faults_and_more():
    assert len(FAULTS) >= 12
