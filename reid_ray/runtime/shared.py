"""Check that every node of a cluster sees the storage, and read the memory of each node."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reid_ray.errors import RunError, StorageError
from reid_ray.io.memory_limit import memory_limit
from reid_ray.io.paths import Location, as_path


def check_shared(folder: Location) -> None:
    """Raise `RunError` naming the nodes that do not see `folder` or cannot write to it.

    Workers on such a node would write checkpoints that no other node can read.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    mark = folder / f".{uuid4().hex}.mark"  # not .tmp: a cleanup process of a killed driver removes those
    mark.write_bytes(b"")
    try:
        results = [on_node(node["NodeID"], sees).remote(str(mark)) for node in nodes]
        failing = [node["NodeManagerAddress"] for node, result in zip(nodes, results, strict=True) if not _sees(result)]
    finally:
        mark.unlink(missing_ok=True)
    if failing:
        raise RunError(
            f"The node{'s' if len(failing) > 1 else ''} {', '.join(failing)} of the Ray cluster cannot write to "
            f"{folder}; choose an output=FOLDER on storage that all nodes share."
        )


def memory_of_nodes() -> list[int]:
    """Bytes of memory of each node of the cluster; one that is gone by now is left out."""
    here = ray.get_runtime_context().get_node_id()
    found = [memory_limit()]
    answers = [
        on_node(node["NodeID"], memory_limit).remote()
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here
    ]
    for answer in answers:
        with suppress(ray.exceptions.RayError):
            found.append(ray.get(answer))
    return found


def on_node(node: str, function: Callable[..., Any]) -> Any:
    """A function as a Ray task that is pinned to this node and reserves no resources."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0)(function).options(scheduling_strategy=there)


def _sees(result: Any) -> bool:
    """The result of a node; a node that has left the cluster counts as good."""
    try:
        return bool(ray.get(result))
    except ray.exceptions.RayError:
        return True


def sees(mark: str) -> bool:
    """Whether this machine sees a file or object, and may write next to it."""
    seen = as_path(mark)
    probe = seen.with_name(f".{uuid4().hex}.mark")  # nodes check at the same time, each with its own file
    try:
        probe.write_bytes(seen.read_bytes())
        probe.unlink()
    except (OSError, StorageError):
        return False
    return True
