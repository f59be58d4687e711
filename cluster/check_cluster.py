"""Check a Ray cluster before training: `python cluster/check_cluster.py --storage /shared/runs`, on its head node.

Prints a table with one row per node, and one line per check: versions, GPUs, shared memory, storage, and the network
between nodes. Exit code: 0 if all checks pass, 1 if one fails, 2 without a cluster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from rich.console import Console
from rich.table import Table

from reid_ray.errors import RunError, StorageError
from reid_ray.io.paths import Location, as_path
from reid_ray.runtime.shared import check_shared, on_node

SAMPLE_MB = 64
"""Size of the sample sent from each node to the next to measure the speed of the object store."""

GRADIENTS_MB = 94
"""Gradients of a ResNet-50 in float32, which trainers on different nodes exchange at every step."""

TIMEOUT_SECONDS = 120

MISSING = "missing"
"""Version of a package that is not installed."""


@dataclass(frozen=True)
class Node:
    """Facts about a node.

    Attributes:
        name: address and host name.
        versions: of packages that must be the same on all nodes, by name.
        n_gpus: GPUs that Ray reports.
        n_cuda: GPUs that PyTorch can use.
        shm_bytes: size of /dev/shm.
        store_bytes: size of Ray's object store, which should fit into /dev/shm.
        gbits: Gbit/s to the next node of the table; None with a single node.
    """

    name: str
    versions: dict[str, str]
    n_gpus: int
    n_cuda: int
    shm_bytes: int
    store_bytes: int
    gbits: float | None = None


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        what: name of the check.
        good: whether it passed.
        message: one line.
    """

    what: str
    good: bool
    message: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="auto", help="of the Ray cluster (default: the one of this machine)")
    parser.add_argument("--storage", type=as_path, help="folder that all nodes must share, such as output=…")
    options = parser.parse_args()
    try:
        ray.init(address=options.address, logging_level="error", log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        print(f"error: no Ray cluster at {options.address} ({error}); start one.", file=sys.stderr)
        return 2
    nodes = collect_nodes()
    results = [versions(nodes), gpus(nodes), shared_memory(nodes), storage(options.storage), network(nodes)]
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(as_table(nodes))
    for result in results:
        mark = "ok   " if result.good else "WRONG"
        console.print(f"{mark} {result.what}: {result.message}", soft_wrap=True, markup=False, highlight=False)
    return 0 if all(result.good for result in results) else 1


def collect_nodes() -> list[Node]:
    """Collect the facts about all nodes, sorted by address."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeManagerAddress"]))
    ids = [node["NodeID"] for node in alive]
    reports = ray.get([on_node(node, describe_this_node).remote() for node in ids], timeout=TIMEOUT_SECONDS)
    nodes = []
    for i, (node, (found, n_cuda, shm_bytes)) in enumerate(zip(alive, reports, strict=True)):
        has = node["Resources"]
        nodes.append(
            Node(
                name=f"{node['NodeManagerAddress']} {node['NodeManagerHostname']}",
                versions=found,
                n_gpus=int(has.get("GPU", 0)),
                n_cuda=n_cuda,
                shm_bytes=shm_bytes,
                store_bytes=int(has.get("object_store_memory", 0)),
                gbits=speed(ids[i], ids[(i + 1) % len(ids)]) if len(ids) > 1 else None,
            )
        )
    return nodes


def describe_this_node() -> tuple[dict[str, str], int, int]:
    """Facts about the node that runs this: versions, GPUs that PyTorch can use, bytes of /dev/shm."""
    import platform
    import shutil
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path

    found = {"Python": platform.python_version()}
    for name in ("ray", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = MISSING
    try:
        from reid_ray import __version__

        found["reid_ray"] = __version__
    except ImportError:
        found["reid_ray"] = MISSING
    n_cuda = 0
    if any(Path("/dev").glob("nvidia[0-9]*")):  # PyTorch takes seconds to import
        import torch

        n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    shm = Path("/dev/shm")
    return found, n_cuda, shutil.disk_usage(shm).total if shm.exists() else 0


def speed(source: str, target: str) -> float:
    """Gbit/s of the object store from one node to another, the better of two measurements."""
    seconds = []
    for _ in range(2):
        sample = on_node(source, make_sample).remote()
        ray.wait([sample], fetch_local=False, timeout=TIMEOUT_SECONDS)
        seconds.append(ray.get(on_node(target, fetch).remote([sample]), timeout=TIMEOUT_SECONDS))
    return SAMPLE_MB * 2**20 * 8 / 1e9 / min(seconds)


def make_sample() -> npt.NDArray[np.uint8]:
    return np.ones(SAMPLE_MB * 2**20, dtype=np.uint8)


def fetch(sample: list[Any]) -> float:
    """Seconds to fetch the one object of the list."""
    import time

    started = time.perf_counter()
    ray.get(sample[0])
    return time.perf_counter() - started


def versions(nodes: Sequence[Node]) -> CheckResult:
    """All nodes must have the same versions."""
    first = nodes[0]
    for node in nodes:
        for name, found in node.versions.items():
            if found == MISSING:
                return CheckResult(
                    "versions", False, f"{node.name} lacks {name}; use the same image or environment on all nodes."
                )
            if found != first.versions[name]:
                return CheckResult(
                    "versions",
                    False,
                    f"{node.name} has {name} {found}, but {first.name} has {first.versions[name]}; use one image or "
                    f"environment on all nodes.",
                )
    same = ", ".join(f"{name} {found}" for name, found in first.versions.items())
    return CheckResult("versions", True, f"{same} on {_nodes(len(nodes))}.")


def gpus(nodes: Sequence[Node]) -> CheckResult:
    """PyTorch must be able to use the GPUs that Ray assigns."""
    for node in nodes:
        if node.n_gpus > node.n_cuda:
            return CheckResult(
                "GPUs",
                False,
                f"Ray assigns {node.n_gpus} GPUs on {node.name}, but PyTorch can use {node.n_cuda}; check "
                f"nvidia-smi: the driver may be too old for this PyTorch, or the container lacks the GPUs.",
            )
    total = sum(node.n_gpus for node in nodes)
    return CheckResult("GPUs", True, f"{total}, all usable by PyTorch." if total else "none; runs train on CPUs.")


def shared_memory(nodes: Sequence[Node]) -> CheckResult:
    """The object store must fit into /dev/shm; otherwise Ray uses a disk."""
    for node in nodes:
        if node.shm_bytes < node.store_bytes:
            return CheckResult(
                "shared memory",
                False,
                f"/dev/shm has {_gb(node.shm_bytes)} on {node.name}, but the object store has {_gb(node.store_bytes)}; "
                f"increase it (--shm-size, or an emptyDir in memory), or start Ray with a smaller "
                f"--object-store-memory.",
            )
    return CheckResult("shared memory", True, f"/dev/shm holds the object store on {_nodes(len(nodes))}.")


def storage(folder: Location | None) -> CheckResult:
    """All nodes must see the folder and be able to write to it."""
    if folder is None:
        return CheckResult("storage", True, "not checked; --storage FOLDER checks it on every node.")
    if isinstance(folder, Path) and not folder.is_dir():
        return CheckResult("storage", False, f"the folder {folder} does not exist here; mount or create it.")
    try:
        check_shared(folder)
    except (RunError, StorageError) as error:
        return CheckResult("storage", False, str(error))
    except OSError as error:
        return CheckResult("storage", False, f"cannot write to {folder} here ({error.strerror}).")
    return CheckResult("storage", True, f"every node sees {folder} and can write to it.")


def network(nodes: Sequence[Node]) -> CheckResult:
    """Speed of the slowest link, for information: a slow network is not an error."""
    links = [(node.gbits, i) for i, node in enumerate(nodes) if node.gbits is not None]
    if not links:
        return CheckResult("network", True, "a single node.")
    gbits, i = min(links)
    other = nodes[(i + 1) % len(nodes)].name
    seconds = GRADIENTS_MB * 8 / 1e3 / gbits
    return CheckResult(
        "network",
        True,
        f"the slowest link, {nodes[i].name} to {other}, has {gbits:.1f} Gbit/s: {seconds:.2f} s for the gradients "
        f"of a ResNet-50.",
    )


def as_table(nodes: Sequence[Node]) -> Table:
    """One row per node."""
    table = Table("node", *nodes[0].versions, "GPUs: Ray", "PyTorch", "/dev/shm", "object store", "Gbit/s to next")
    for node in nodes:
        gbits = "" if node.gbits is None else f"{node.gbits:.1f}"
        counts = (str(node.n_gpus), str(node.n_cuda), _gb(node.shm_bytes), _gb(node.store_bytes), gbits)
        table.add_row(node.name, *node.versions.values(), *counts)
    return table


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GB"


def _nodes(number: int) -> str:
    return "the one node" if number == 1 else f"all {number} nodes"


if __name__ == "__main__":
    sys.exit(main())
