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
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_bench import ROLES, Bench, Job, difference, state, wait_until_gone
from fault_injection import FAULTS


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

    def undisturbed(
        self, settings: tuple[str, ...] = (), meanwhile: Callable[[Job], None] | None = None
    ) -> tuple[dict[str, Any], float]:
        """Final state of the run, and its seconds. `meanwhile` is called while it trains, and may delay it."""
        key = tuple(setting for setting in settings if not setting.startswith("runtime."))
        if key not in self._whole:
            job = Job(self.bench, self.bench.config("whole", *key))
            try:
                if meanwhile is not None:
                    meanwhile(job)
                code, output = job.finish()
                assert code == 0, output
                self._whole[key] = state(job.directory), time.time() - job.started
            finally:
                job.end()
        return self._whole[key]

    def do(self, name: str) -> Outcome:
        fault = FAULTS[name]
        self.bench.replace_nodes()
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
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="rf-", dir="/tmp", ignore_cleanup_errors=True))
        )
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
