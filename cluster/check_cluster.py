"""Check a Ray cluster before training: `python cluster/check_cluster.py --storage /shared/runs`, on its head.

Prints a table with one row per node and a line per check: versions, GPUs, shared memory, storage, network.
Exit code: 0 if all checks pass, 1 if one fails, 2 without a cluster.
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
"""Size of the object that each node sends to the next, twice, to measure the throughput of the object store."""

GRADIENTS_MB = 94
"""Size of the float32 gradients of a ResNet-50, which trainers on different nodes exchange at every step."""

ANSWER_SECONDS = 120

MISSING = "missing"
"""Reported as the version of a package that is not installed."""


@dataclass(frozen=True)
class Node:
    """One node of the cluster.

    Attributes:
        name: address and host name.
        versions: versions that must agree on all nodes, by name.
        n_gpus: GPUs that Ray knows.
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
class Verdict:
    """The result of a check, with a one-line message."""

    what: str
    good: bool
    sentence: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="auto", help="address of the Ray cluster (default: that of this machine)")
    parser.add_argument("--storage", type=as_path, help="folder that all nodes must share, such as output=…")
    options = parser.parse_args()
    try:
        ray.init(address=options.address, logging_level="error", log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        print(f"error: no Ray cluster answers at {options.address} ({error}); start one.", file=sys.stderr)
        return 2
    nodes = look()
    verdicts = [versions(nodes), gpus(nodes), shared_memory(nodes), storage(options.storage), network(nodes)]
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(as_table(nodes))
    for verdict in verdicts:
        mark = "ok   " if verdict.good else "WRONG"
        console.print(f"{mark} {verdict.what}: {verdict.sentence}", soft_wrap=True, markup=False, highlight=False)
    return 0 if all(verdict.good for verdict in verdicts) else 1


def look() -> list[Node]:
    """Collect the state of all nodes, in order of their addresses."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeManagerAddress"]))
    ids = [node["NodeID"] for node in alive]
    told = ray.get([on_node(node, about_itself).remote() for node in ids], timeout=ANSWER_SECONDS)
    nodes = []
    for i, (node, (found, n_cuda, shm_bytes)) in enumerate(zip(alive, told, strict=True)):
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


def about_itself() -> tuple[dict[str, str], int, int]:
    """Versions, GPUs that PyTorch can use, and bytes of /dev/shm on the node that runs this."""
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
    """Throughput of the object store from one node to another in Gbit/s, the better of two tries."""
    seconds = []
    for _ in range(2):
        sample = on_node(source, make_sample).remote()
        ray.wait([sample], fetch_local=False, timeout=ANSWER_SECONDS)
        seconds.append(ray.get(on_node(target, fetch).remote([sample]), timeout=ANSWER_SECONDS))
    return SAMPLE_MB * 2**20 * 8 / 1e9 / min(seconds)


def make_sample() -> npt.NDArray[np.uint8]:
    return np.ones(SAMPLE_MB * 2**20, dtype=np.uint8)


def fetch(sample: list[Any]) -> float:
    """Seconds to fetch the only object of the list to this node."""
    import time

    started = time.perf_counter()
    ray.get(sample[0])
    return time.perf_counter() - started


def versions(nodes: Sequence[Node]) -> Verdict:
    """All nodes have the same versions."""
    first = nodes[0]
    for node in nodes:
        for name, found in node.versions.items():
            if found == MISSING:
                return Verdict(
                    "versions", False, f"{node.name} lacks {name}; run one image or environment on all nodes."
                )
            if found != first.versions[name]:
                return Verdict(
                    "versions",
                    False,
                    f"{node.name} has {name} {found}, and {first.name} has {first.versions[name]}; run one image or "
                    f"environment on all nodes.",
                )
    same = ", ".join(f"{name} {found}" for name, found in first.versions.items())
    return Verdict("versions", True, f"{same} on {_nodes(len(nodes))}.")


def gpus(nodes: Sequence[Node]) -> Verdict:
    """PyTorch can use all GPUs that Ray assigns."""
    for node in nodes:
        if node.n_gpus > node.n_cuda:
            return Verdict(
                "GPUs",
                False,
                f"Ray assigns {node.n_gpus} GPUs on {node.name}, and PyTorch can use {node.n_cuda}; see "
                f"nvidia-smi: the driver may be too old for this PyTorch, or the container lacks the GPUs.",
            )
    total = sum(node.n_gpus for node in nodes)
    return Verdict("GPUs", True, f"{total} that PyTorch can use." if total else "none, runs train on CPUs.")


def shared_memory(nodes: Sequence[Node]) -> Verdict:
    """The object store fits into /dev/shm; otherwise Ray puts it on a disk."""
    for node in nodes:
        if node.shm_bytes < node.store_bytes:
            return Verdict(
                "shared memory",
                False,
                f"/dev/shm has {_gb(node.shm_bytes)} on {node.name}, and the object store {_gb(node.store_bytes)}; "
                f"give the container more (--shm-size, or an emptyDir in memory), or start Ray with less "
                f"--object-store-memory.",
            )
    return Verdict("shared memory", True, f"/dev/shm holds the object store on {_nodes(len(nodes))}.")


def storage(folder: Location | None) -> Verdict:
    """All nodes see one folder and can write to it."""
    if folder is None:
        return Verdict("storage", True, "not checked; --storage FOLDER tests it from every node.")
    if isinstance(folder, Path) and not folder.is_dir():
        return Verdict("storage", False, f"there is no folder {folder} here; mount it, or create it.")
    try:
        check_shared(folder)
    except (RunError, StorageError) as error:
        return Verdict("storage", False, str(error))
    except OSError as error:
        return Verdict("storage", False, f"cannot write to {folder} here ({error.strerror}).")
    return Verdict("storage", True, f"{folder} is the same, and can be written to, from every node.")


def network(nodes: Sequence[Node]) -> Verdict:
    """Throughput of the slowest link. A slow network is reported and is not a failure."""
    links = [(node.gbits, i) for i, node in enumerate(nodes) if node.gbits is not None]
    if not links:
        return Verdict("network", True, "a single node, nothing to measure.")
    gbits, i = min(links)
    other = nodes[(i + 1) % len(nodes)].name
    seconds = GRADIENTS_MB * 8 / 1e3 / gbits
    return Verdict(
        "network",
        True,
        f"the slowest link, {nodes[i].name} to {other}, carries {gbits:.1f} Gbit/s: {seconds:.2f} s for the gradients "
        f"of a ResNet-50.",
    )


def as_table(nodes: Sequence[Node]) -> Table:
    """One row per node."""
    table = Table("node", *nodes[0].versions, "GPUs: Ray", "PyTorch", "/dev/shm", "object store", "to the next, Gbit/s")
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
