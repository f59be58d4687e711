"""Fault injection: typical faults of clusters, applied to a small run, with a table of consequences and losses.

`python benchmarks/faults.py` starts a Ray cluster of several nodes on this machine and trains ICE on it, once without
faults and once with each fault of `FAULTS`. It prints a table and exits with code 1 if anything was lost. `--kills N`
instead kills N processes of such runs, chosen and timed at random by `--seed`: trainers, extractors, labellers, the
driver.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
        bench = cls(folder, cluster, environment={**os.environ, "HOME": str(home)})
        try:
            for _ in range(n_nodes):
                bench.add_node()
            cluster.wait_for_nodes()
            yield bench
        finally:
            cluster.shutdown()

    def add_node(self) -> None:
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


# Each function injects a fault into a running job and returns a short description of what happened.


def kill(role: str, kind: str, number: int) -> Callable[[Job], str]:
    def fault(job: Job) -> str:
        job.wait_for(kind, number)
        os.kill(job.wait_for_processes(role)[0], signal.SIGKILL)
        code, output = job.finish()
        assert code == 0, output
        return "Ray started the group again" if role == "trainer" else "Ray started it again, its task was repeated"

    return fault


def kill_in_refresh(role: str) -> Callable[[Job], str]:
    """Just after an epoch's end, while labels are being computed."""

    def fault(job: Job) -> str:
        job.wait_for("epoch", 0)
        os.kill(job.wait_for_processes(role)[-1], signal.SIGKILL)
        code, output = job.finish()
        assert code == 0, output
        return "Ray started the group again" if role == "trainer" else "Ray started it again, its task was repeated"

    return fault


def kill_node(role: str) -> Callable[[Job], str]:
    def fault(job: Job) -> str:
        job.wait_for("step", 8)
        job.bench.kill_node(job.bench.nodes_of(role)[0])
        try:
            code, output = job.finish()
        finally:
            job.bench.add_node()
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
        job.bench.add_node()
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
    try:
        code, output = job.finish()
    finally:
        for _ in gone:
            job.bench.add_node()
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


@dataclass
class Outcome:
    what: str
    happened: str
    lost: str
    seconds: float


class Trial:
    """Runs with and without faults on one cluster; the reference run is trained once per way of computing."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._whole: dict[tuple[str, ...], tuple[dict[str, Any], float]] = {}

    def undisturbed(self, settings: tuple[str, ...] = ()) -> tuple[dict[str, Any], float]:
        """Final state of the run, and its seconds."""
        key = tuple(setting for setting in settings if not setting.startswith("runtime."))
        if key not in self._whole:
            job = Job(self.bench, self.bench.config("whole", *key))
            try:
                code, output = job.finish()
                assert code == 0, output
                self._whole[key] = state(job.directory), time.time() - job.started
            finally:
                job.end()
        return self._whole[key]

    def do(self, name: str) -> Outcome:
        fault = FAULTS[name]
        expected, seconds = self.undisturbed(fault.settings)
        job = Job(self.bench, self.bench.config(f"run-{name}", *fault.settings))
        try:
            happened = fault.do(job)
            more = time.time() - job.started - seconds
            wait_until_gone(self.bench)
            return Outcome(fault.what, happened, lost(job, expected, fault.exact) or "nothing", more)
        finally:
            job.end()


def lost(job: Job, expected: dict[str, Any], exact: bool) -> str | None:
    """Describe differences from the undisturbed run."""
    left = [path.name for path in job.directory.path.glob("**/.*")]
    if left:
        return f"left behind: {left}"
    told = [event["global_step"] for event in job.events() if event["event"] == "step"]
    if told != list(range(1, len(told) + 1)):
        return "the log has gaps"
    return (difference if exact else far_apart)(expected, state(job.directory))


def far_apart(expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    """Name of a network's tensor that differs by more than rounding (1e-6 in float64)."""
    for network, tensors in expected["networks"].items():
        for name, tensor in tensors.items():
            gap = (tensor.double() - found["networks"][network][name].double()).norm()
            if gap > 1e-6 * tensor.double().norm().clamp_min(1e-12):
                return f"{network}.{name} by {float(gap):.1e}"
    return None


def random_kills(bench: Bench, n_kills: int, seed: int) -> bool:
    """Kill random processes of small runs at random times; every run must finish with bit-identical weights."""
    rng, n_done, n_runs, equal = random.Random(seed), 0, 0, True
    expected, length = Trial(bench).undisturbed()
    print("| run | killed, seconds after the start or the kill before | weights |\n|---|---|---|", flush=True)
    while n_done < n_kills:
        n_runs += 1
        job, told = Job(bench, bench.config(f"killed-{n_runs}")), []
        for _ in range(min(rng.randint(2, 5), n_kills - n_done)):
            role, moment = rng.choice([*ROLES, "driver"]), rng.uniform(0.1, 0.6) * length
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.process.wait(timeout=moment)
                break  # it has ended before
            victims = [job.process.pid] if role == "driver" else bench.processes(role)
            if not victims:
                continue  # no such process yet, or no longer
            os.kill(rng.choice(victims), signal.SIGKILL)
            n_done += 1
            told.append(f"{role} at {moment:.1f}")
            if role == "driver":
                job.finish()
                job.start()
        code, output = job.finish()
        if code:
            print(output)
            return False
        wrong = lost(job, expected, exact=True)
        equal = equal and wrong is None
        print(f"| {n_runs} | {', '.join(told) or 'none'} | {wrong or 'bit-equal'} |", flush=True)
        job.end()
    print(f"\n{n_done} kills in {n_runs} runs, seed {seed}: {'all ended the same' if equal else 'NOT ALL THE SAME'}")
    return equal


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A separate file system for the runs, which can safely be filled; needs permission to mount."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", help=f"some of: {', '.join(FAULTS)} (default: all)")
    parser.add_argument("--kills", type=int, default=0, help="random kills instead of the table")
    parser.add_argument("--seed", type=int, default=0, help="of the random kills (default 0)")
    options = parser.parse_args()
    unknown = set(options.faults) - FAULTS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    names = options.faults or list(FAULTS)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rf-", dir="/tmp")))
        if "disk" in names and not options.kills:
            stack.enter_context(small_disk(folder / "runs"))
        bench = stack.enter_context(Bench.of(folder, n_nodes=3))
        if options.kills:
            return 0 if random_kills(bench, options.kills, options.seed) else 1
        trial, failed = Trial(bench), 0
        print("| fault | what happened | lost | seconds more |\n|---|---|---|---|", flush=True)
        for name in names:
            try:
                outcome = trial.do(name)
            except Exception as error:  # the table shows it
                outcome = Outcome(FAULTS[name].what, "FAILED", f"{type(error).__name__}: {error}"[-1500:], 0.0)
            failed += outcome.lost != "nothing"
            print(f"| {outcome.what} | {outcome.happened} | {outcome.lost} | {outcome.seconds:+.0f} |", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
