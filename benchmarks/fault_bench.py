"""A Ray cluster of several nodes on this machine, and small runs on it whose processes can be found and killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_WARN_BLOCKING_GET_INSIDE_ASYNC"] = "0"
import torch
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_placement_groups

from reid_ray.config import Config, dump_config, load_config
from reid_ray.training.checkpoint import checkpoint_files
from reid_ray.training.metrics import Event, read_metrics
from reid_ray.training.rundir import RunDirectory

SETTINGS = (
    "data.height=32",
    "data.width=16",
    "data.loader_threads=1",
    "data.synthetic.n_train_ids=8",
    "data.synthetic.n_test_ids=4",
    "data.synthetic.n_cameras=2",
    "data.synthetic.images_per_id=6",
    "data.synthetic.height=64",
    "data.synthetic.width=32",
    "labels.k1=6",
    "labels.k2=2",
    "labels.eps=0.7",
    "labels.min_samples=2",
    "model.bn_group=4",
    "training.n_pids=4",
    "training.n_instances=4",
    "training.epochs=2",
    "training.iterations=16",
    "training.log_every=1",
    "training.checkpoint_every=5",
    "training.precision=float32",
    "evaluation.every=2",
    "evaluation.at_start=false",
    "evaluation.batch_size=8",
    "runtime.backend=ray",
    "runtime.n_workers=2",
    "runtime.n_extractors=1",
    "runtime.n_labellers=1",
    "runtime.threads=1",
    "runtime.max_failures=10",
)
PATIENCE = 300
"""Seconds without progress after which a run has failed."""
RAY_S_OWN = "_AutoscalingCoordinatorActor"
"""An actor shared by all jobs of a cluster; Ray starts it with the first job and keeps it."""
ROLES = {"trainer": "ray::RayTrainWorker", "extractor": "ray::Extractor", "labeller": "ray::Labeller"}


@dataclass
class Bench:
    """A cluster of several nodes on this machine, and its runs."""

    folder: Path
    cluster: Cluster
    n_nodes: int
    nodes: list[Any] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def of(cls, folder: Path, *, n_nodes: int) -> Iterator[Bench]:
        home = folder / "home"
        home.mkdir(exist_ok=True)
        os.environ["HOME"] = str(home)  # identifies the processes of this cluster, and contains Ray's token
        # Not the argument temp_dir: Ray would still write the address below /tmp/ray, which may not exist.
        os.environ["RAY_TMPDIR"] = str(folder)
        # The head has no CPUs for trainers, so that every other node may fail.
        head = {"num_cpus": 0, "include_dashboard": True}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            head["dashboard_port"] = free.getsockname()[1]
        cluster = Cluster(initialize_head=True, head_node_args=head)
        bench = cls(folder, cluster, n_nodes, environment={**os.environ, "HOME": str(home)})
        try:
            bench.replace_nodes()
            cluster.wait_for_nodes()
            yield bench
        finally:
            cluster.shutdown()

    def replace_nodes(self) -> None:
        """Start nodes in the place of those that were killed."""
        while len(self.nodes) < self.n_nodes:
            self.nodes.append(self.cluster.add_node(num_cpus=2))

    def nodes_of(self, role: str) -> list[Any]:
        """The nodes, except for the head, on which processes of this role run."""
        raylets = {node.all_processes["raylet"][0].process.pid: node for node in self.nodes}
        parents = [int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in self.processes(role)]
        return [raylets[pid] for pid in dict.fromkeys(parents) if pid in raylets]

    def kill_node(self, node: Any) -> None:
        """Kill a node with all of its processes."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def processes(self, role: str) -> list[int]:
        """Process ids of the actors of a role."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    title = (entry / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                    ours = f"HOME={self.environment['HOME']}\0".encode() in (entry / "environ").read_bytes()
                    if ours and title.startswith(ROLES[role]):
                        found.append(int(entry.name))
        return sorted(found)

    def config(self, name: str, *overrides: str) -> Config:
        address = f"runtime.address={self.cluster.address}"
        output = f"output={self.folder / 'runs'}"
        return load_config("demo", [*SETTINGS, address, output, f"name={name}", *overrides])


class Job:
    """`reid-ray train` in a subprocess, which can be restarted until it succeeds."""

    def __init__(self, bench: Bench, config: Config) -> None:
        self.bench, self.config = bench, config
        self.directory = RunDirectory.of(config)
        self.recipe = bench.folder / f"{config.name}.yaml"
        self.recipe.write_text(dump_config(config), encoding="utf-8")
        self.started = time.time()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reid_ray", "train", str(self.recipe)],
            env=self.bench.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def events(self) -> list[Event]:
        with contextlib.suppress(ValueError):
            return read_metrics(self.directory.metrics_file)
        return []

    def wait_for(self, kind: str, number: int) -> None:
        """Wait until this process has logged the event of a global step (`step`) or epoch (all other kinds)."""
        key, until = "global_step" if kind == "step" else "epoch", time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if any(e["event"] == kind and e[key] >= number and e["time"] > self.started for e in self.events()):
                return
            if self.process.poll() is not None:
                raise RuntimeError(f"the run ended early: {self.process.communicate()[0]}")
            time.sleep(0.02)
        raise RuntimeError(f"the run never reached {kind} {number}")

    def wait_for_processes(self, role: str, number: int = 1) -> list[int]:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = self.bench.processes(role)
            if len(found) >= number:
                return found
            time.sleep(0.05)
        raise RuntimeError(f"there never were {number} processes of role {role}")

    def finish(self) -> tuple[int, str]:
        """Exit code and output."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output

    def end(self) -> None:
        """Kill the remaining processes of the run, and remove its directory."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.directory.path, ignore_errors=True)

    def again(self) -> None:
        """Run the same command again to its end."""
        self.start()
        code, output = self.finish()
        assert code == 0, output


def state(directory: RunDirectory) -> dict[str, Any]:
    """Final state of a run: networks, optimizers, labels."""
    return dict(torch.load(checkpoint_files(directory.checkpoints)[0], weights_only=True))


def difference(expected: Any, found: Any, where: str = "") -> str | None:
    """Name of the first value that is not bit-identical."""
    if isinstance(expected, torch.Tensor):
        return None if torch.equal(expected, found) else where
    if isinstance(expected, dict):
        if expected.keys() != found.keys():
            return where
        inner = (difference(expected[key], found[key], f"{where}.{key}") for key in expected if key != "metrics")
        return next((name for name in inner if name), None)
    if isinstance(expected, list):
        if len(expected) != len(found):
            return where
        return difference(dict(enumerate(expected)), dict(enumerate(found)), where)
    return None if expected == found else where


def wait_until_gone(bench: Bench) -> None:
    """Wait until a run has neither actors nor placement groups."""
    until = time.monotonic() + 90
    while True:
        where = {"address": bench.cluster.address, "raise_on_missing_output": False}
        left = [actor.class_name for actor in list_actors(filters=[("state", "!=", "DEAD")], **where)]
        left = [name for name in left if name != RAY_S_OWN]
        left += [
            group.placement_group_id for group in list_placement_groups(filters=[("state", "!=", "REMOVED")], **where)
        ]
        if not left:
            return
        assert time.monotonic() < until, f"left behind on the cluster: {left}"
        time.sleep(0.5)
