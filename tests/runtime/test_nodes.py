"""Runs on a cluster of several nodes that lose nodes and processes. benchmarks/faults.py covers more cases."""

import json
import os
import signal
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
from fault_bench import Bench
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
        with Bench.of(Path(folder), n_nodes=2) as bench:
            yield Trial(bench)


def at_endpoints(bench, run, names, seconds=60):
    """Those of a run's metrics that appear at the Prometheus endpoints of the nodes."""
    found, until = set(), time.monotonic() + seconds
    while found != names and time.monotonic() < until:
        (service,) = json.loads((bench.folder / "ray" / "prom_metrics_service_discovery.json").read_text())
        for target in service["targets"]:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
                lines = [line for line in answer.read().decode().splitlines() if f'run="{run}"' in line]
            found |= {name for name in names if any(line.startswith(f"ray_reid_{name}{{") for line in lines)}
        time.sleep(1)
    return found


@pytest.fixture(scope="module")
def exposed(trial):
    """Metrics of the undisturbed run at Ray's endpoints, to which Ray reports every ten seconds.

    The labeller is stopped meanwhile, so that the run waits in its second refresh instead of training for so long.
    """
    found = set()

    def read(job):
        job.wait_for("refresh", 0)
        (labeller,) = trial.bench.processes("labeller")
        os.kill(labeller, signal.SIGSTOP)
        try:
            names = {"loss", "clusters", "refresh_wait_seconds", "label_staleness"}
            found.update(at_endpoints(trial.bench, job.config.name, names))
        finally:
            os.kill(labeller, signal.SIGCONT)

    trial.undisturbed(meanwhile=read)
    return found


@pytest.mark.usefixtures("exposed")  # it trains the undisturbed run
@pytest.mark.parametrize("name", ["node"])
def test_weights_are_unchanged_and_nothing_is_left_behind(trial, name):
    """The weights are those of the undisturbed run; the trial also checks for leftover processes and files."""
    outcome = trial.do(name)
    assert outcome.lost == "nothing", outcome


def test_metrics_of_a_run_are_at_rays_prometheus_endpoints(exposed):
    assert exposed == {"loss", "clusters", "refresh_wait_seconds", "label_staleness"}


def test_the_table_has_twelve_faults_and_more():
    assert len(FAULTS) >= 12
