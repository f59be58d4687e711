"""From a laptop to a cluster and back, by the commands of docs/clusters.md, on a cluster of three nodes.

The head and the nodes are raylets of `ray start` in network namespaces of their own, or, where those may not be made,
plain processes; the commands are given on a further machine, with the cluster's token.
"""

import os
import re
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from small_cluster import SmallCluster
from small_runs import TINY, steps_logged, wait_for

from reid_ray.training.metrics import read_metrics
from reid_ray.training.rundir import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "clusters.md"

SMALL = [
    *(setting for setting in TINY if not setting.startswith(("training.iterations", "runtime.backend"))),
    "training.iterations=12",
    "training.checkpoint_every=4",
    "training.log_every=1",
]
LAPTOP = 4


@pytest.fixture(scope="module")
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    (folder / "shared" / "runs").mkdir(parents=True)
    (folder / "work").mkdir()
    cluster = SmallCluster(folder)
    try:
        cluster.start_nodes(2)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def documented(cluster):
    """The page's commands by their first two words, adapted to this cluster."""
    (block,) = re.findall(
        r"^```console cluster\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    lines = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    text = (
        "\n".join(lines).replace("/shared", f"{cluster.folder}/shared").replace("http://head:8265", cluster.dashboard)
    )
    commands = {}
    for words in map(shlex.split, text.splitlines()):
        commands.setdefault(" ".join(words[:2]), words)
    return commands


def test_cluster_check(cluster, documented):
    command = documented["python cluster/check_cluster.py"]
    told = cluster.run(1, sys.executable, ROOT / command[1], "--address", cluster.address, *command[2:])
    assert "on all 3 nodes" in told
    assert f"every node sees {cluster.folder}/shared/runs and can write to it." in told
    if not cluster.in_namespaces:
        return
    assert all(f"10.77.0.{machine}" in told for machine in (1, 2, 3))
    local = ("--storage", cluster.local)
    told = cluster.run(1, sys.executable, ROOT / command[1], "--address", cluster.address, *local, code=1)
    assert re.search(
        r"WRONG storage: The nodes 10\.77\.0\.\d, 10\.77\.0\.\d of the Ray cluster cannot write to", told
    ), told


def test_submitted_followed_a_node_killed_finished(cluster, documented, tmp_path):
    submit = [*documented["reid-ray submit"], *SMALL]
    environment = {"RAY_API_SERVER_ADDRESS": cluster.dashboard}
    work = ["--working-dir", str(cluster.folder / "work")]
    since, following = time.time(), cluster.start(LAPTOP, *submit, *work, **environment)
    directory = RunDirectory(cluster.folder / "shared" / "runs" / "first")

    refused = cluster.run(LAPTOP, "reid-ray", "jobs", "list", code=2, **environment, RAY_AUTH_TOKEN="f" * 64)
    assert "rejects this token" in refused
    wait_for(directory, lambda event: event["event"] == "step" and event["global_step"] >= 5, following, since)
    (raylet, *_) = cluster.raylets_of("ray::RayTrainWorker")
    os.kill(raylet, signal.SIGKILL)
    again = cluster.run(LAPTOP, *submit, *work, "--no-follow", **environment)
    assert "'first' already has an active job: train-first-1" in again

    output, _ = following.communicate(timeout=240)
    assert following.returncode == 0, output
    for words in ("Submitted train-first-1", "resuming at epoch", "end       2 epochs", "train-first-1 succeeded"):
        assert words in output, output
    assert "Traceback" not in output, output
    starts = [event for event in read_metrics(directory.metrics_file) if event["event"] == "start"]
    assert len(starts) > 1
    assert steps_logged(directory) == list(range(1, 25))
    assert not list(directory.path.glob("**/.*"))

    told = cluster.run(LAPTOP, *documented["reid-ray status"])
    assert "first: finished" in told
    cluster.run(LAPTOP, *documented["reid-ray report"])
    assert (directory.path / "report.html").exists()
    listed = cluster.run(LAPTOP, *documented["reid-ray jobs"], **environment)
    assert "train-first-1" in listed
    assert "succeeded" in listed
