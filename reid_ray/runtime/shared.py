"""Storage that every node of a cluster must see, and what memory nodes have."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reid_ray.errors import RunError, StorageError
from reid_ray.io.paths import Location, as_path
from reid_ray.training.requirements import memory_limit


def check_shared(folder: Location) -> None:
    """Raise `RunError` naming a node that does not see `folder`, or cannot write there.

    Workers on that node would write checkpoints that nobody finds.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    mark = folder / f".{uuid4().hex}.mark"  # not .tmp: the janitor of a driver that was just killed looks for those
    mark.write_bytes(b"")
    try:
        answers = [on_node(node["NodeID"], sees).remote(str(mark)) for node in nodes]
        blind = [node["NodeManagerAddress"] for node, answer in zip(nodes, answers, strict=True) if not _sees(answer)]
    finally:
        mark.unlink(missing_ok=True)
    if blind:
        raise RunError(
            f"The node{'s' if len(blind) > 1 else ''} {', '.join(blind)} of the Ray cluster cannot write to {folder}; "
            f"choose an output=FOLDER on storage that all nodes share."
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
    """A function as a task that runs on the node of this id, and reserves nothing."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0)(function).options(scheduling_strategy=there)


def _sees(answer: Any) -> bool:
    """A node's answer; one that is gone by now has seen nothing wrong."""
    try:
        return bool(ray.get(answer))
    except ray.exceptions.RayError:
        return True


def sees(mark: str) -> bool:
    """Whether this machine sees a file or object, and may write beside it."""
    seen = as_path(mark)
    beside = seen.with_name(f".{uuid4().hex}.mark")  # nodes try at the same time, each with a file of its own
    try:
        beside.write_bytes(seen.read_bytes())
        beside.unlink()
    except (OSError, StorageError):
        return False
    return True
