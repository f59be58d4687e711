"""Typical faults of clusters, injected into a running job.

Each function injects one fault and returns a short description of what happened.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from fault_bench import Job, wait_until_gone

from reid_ray.training.checkpoint import checkpoint_files


def kill(role: str, kind: str, number: int, *, which: int = 0) -> Callable[[Job], str]:
    """Kill one of the processes of a role, after an event."""

    def fault(job: Job) -> str:
        job.wait_for(kind, number)
        os.kill(job.wait_for_processes(role)[which], signal.SIGKILL)
        code, output = job.finish()
        assert code == 0, output
        return "Ray started the group again" if role == "trainer" else "Ray started it again, its task was repeated"

    return fault


def kill_in_refresh(role: str) -> Callable[[Job], str]:
    """Just after an epoch's end, while labels are being computed."""
    return kill(role, "epoch", 0, which=-1)


def kill_node(role: str) -> Callable[[Job], str]:
    def fault(job: Job) -> str:
        job.wait_for("step", 8)
        job.bench.kill_node(job.bench.nodes_of(role)[0])
        code, output = job.finish()
        assert code == 0, output
        return "its processes were started again on other nodes"

    return fault


def signal_driver(number: signal.Signals) -> Callable[[Job], str]:
    def fault(job: Job) -> str:
        job.wait_for("step", 8)
        os.kill(job.process.pid, number)
        code, _ = job.finish()
        wait_until_gone(job.bench)
        job.again()
        return f"exit code {code}, nothing of it left on the cluster; the same command resumed"

    return fault


def hang(role: str) -> Callable[[Job], str]:
    def fault(job: Job) -> str:
        if role == "trainer":
            job.wait_for("step", 8)
        else:
            job.wait_for("epoch", 0)
        os.kill(job.wait_for_processes(role)[0], signal.SIGSTOP)
        code, output = job.finish()
        assert code == 0, output
        return "taken for hung after runtime.timeout_seconds, and started again"

    return fault


def preempt(job: Job) -> str:
    """Announce the preemption of a trainer's node, as clouds do, then kill it."""
    job.wait_for("step", 6)
    node = job.bench.nodes_of("trainer")[0]
    before = len([event for event in job.events() if event["event"] == "step"])
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", job.bench.cluster.address, "--node-id",
         node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "preempted",
         "--deadline-remaining-seconds", "10"],
        env=job.bench.environment, check=True, capture_output=True,
    )  # fmt: skip
    try:
        code, output = job.finish()
    finally:
        job.bench.kill_node(node)
    assert code == 0, output
    starts = [event for event in job.events() if event["event"] == "start"]
    place = f"epoch {starts[-1]['epoch']}, step {starts[-1]['step']}" if len(starts) > 1 else "its end"
    return f"noticed at step {before}: a checkpoint was written at once; it resumed from {place}"


def damage_checkpoint(job: Job) -> str:
    job.wait_for("step", 24)
    os.kill(job.process.pid, signal.SIGKILL)
    job.finish()
    wait_until_gone(job.bench)
    newest = checkpoint_files(job.directory.checkpoints)[0]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    job.again()
    return f"{newest.name} was cut in half; the previous one was used"


def fill_disk(job: Job) -> str:
    job.wait_for("step", 8)
    ballast = job.directory.path.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(2**20))
            file.flush()
    code, output = job.finish()
    assert code == 2, output
    assert "free space" in output, output
    wait_until_gone(job.bench)
    ballast.unlink()
    job.again()
    return "one-line message, exit code 2; space was freed, the same command resumed"


def lose_nodes(job: Job) -> str:
    """Remove a node permanently; the run may continue with fewer workers."""
    job.wait_for("step", 8)
    trainers = job.bench.nodes_of("trainer")
    gone = [node for node in job.bench.nodes if node not in trainers] + trainers[:1]
    for node in gone:
        job.bench.kill_node(node)
    code, output = job.finish()
    assert code == 0, output
    starts = [event["n_workers"] for event in job.events() if event["event"] == "start"]
    return f"it continued with {starts[-1]} worker"


@dataclass(frozen=True)
class Fault:
    """A fault: its description, its function, and the run's settings; `exact` requires bit-identical weights."""

    what: str
    do: Callable[[Job], str]
    settings: tuple[str, ...] = ()
    exact: bool = True


APART = ("runtime.placement=separate",)
QUICK = ("runtime.timeout_seconds=15",)
LONG = ("training.iterations=80", "training.epochs=1", "training.checkpoint_every=1000")
FEWER = ("runtime.min_workers=1", "runtime.cpus_per_worker=2", "training.precision=float64")
FAULTS = {
    "trainer": Fault("a trainer is killed in an epoch", kill("trainer", "step", 8)),
    "trainer-refresh": Fault("a trainer is killed in a refresh", kill_in_refresh("trainer")),
    "extractor": Fault("an extractor is killed in a refresh", kill_in_refresh("extractor")),
    "labeller": Fault("a labeller is killed in a refresh", kill_in_refresh("labeller")),
    "extractor-in-training": Fault(
        "an extractor is killed during training, labels.staleness=1",
        kill("extractor", "refresh", 0),
        (*APART, "labels.staleness=1"),
    ),
    "node": Fault("a trainer's node is killed", kill_node("trainer")),
    "pool-node": Fault("an extractor's node is killed", kill_node("extractor"), APART),
    "driver": Fault("the driver is killed (SIGKILL)", signal_driver(signal.SIGKILL)),
    "ctrl-c": Fault("Ctrl-C", signal_driver(signal.SIGINT)),
    "sigterm": Fault("the driver is terminated (SIGTERM)", signal_driver(signal.SIGTERM)),
    "hung-trainer": Fault("a trainer hangs (SIGSTOP)", hang("trainer"), QUICK),
    "hung-extractor": Fault("an extractor hangs (SIGSTOP)", hang("extractor"), QUICK),
    "preemption": Fault("notice that a trainer's node will be taken away, then it is", preempt, LONG),
    "checkpoint": Fault("the newest checkpoint is damaged", damage_checkpoint),
    "disk": Fault("the disk is full", fill_disk),
    "fewer": Fault("a trainer's node goes for good, runtime.min_workers=1", lose_nodes, FEWER, exact=False),
}
