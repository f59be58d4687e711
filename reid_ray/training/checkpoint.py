"""Checkpoints: everything a run needs to go on as if it had not been stopped.

Randomness needs no saving: every draw is keyed by (seed, epoch, step, …). Files are written beside and renamed, so a
kill leaves a whole checkpoint or none; one that cannot be read is passed over for the one before.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from reid_ray.errors import RunError
from reid_ray.locations import Location, readable
from reid_ray.training.storage import replacing
from reid_ray.types import PseudoLabels

LABEL_ARRAYS = ("labels", "centroids", "proxies", "proxy_labels", "proxy_camids")


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        epoch: epochs completed.
        step: steps completed in the current epoch.
        global_step: steps completed in all.
        degenerate: refreshes in a row that gave nothing to train on.
        best_map: best mAP seen by the run's evaluations.
        refreshed: whether the labels at hand are those of the current epoch.
        metrics: bytes of metrics.jsonl that belong to this state.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    degenerate: int = 0
    best_map: float = -1.0
    refreshed: bool = False
    metrics: int = 0


@dataclass
class Checkpoint:
    """A resumable state. `networks` and `optimizers` are state dicts by name.

    Attributes:
        local_buffers: each worker's own running BN statistics by network, which `networks` holds merged; for a run that
            goes on with as many workers.
        ahead: state dict of the teacher that gives the next epoch's labels; None unless labels are stale.
        evaluated: state dict of the teacher that is being evaluated while training goes on; None where none is.
    """

    position: Position
    networks: dict[str, Any]
    optimizers: dict[str, Any]
    local_buffers: Sequence[Mapping[str, Tensor]] = ()
    labels: PseudoLabels | None = None
    ahead: dict[str, Any] | None = None
    evaluated: dict[str, Any] | None = None

    def save(self, folder: Location, keep: int) -> Location:
        """Write `step-NNNNNNNN-E.pt` into `folder` and remove all but the newest `keep`."""
        state = {
            "position": asdict(self.position),
            "networks": self.networks,
            "optimizers": self.optimizers,
            "labels": _pack_labels(self.labels),
            "local_buffers": list(self.local_buffers),
            "ahead": self.ahead,
            "evaluated": self.evaluated,
        }
        path = folder / f"step-{self.position.global_step:08d}-{int(self.position.refreshed)}.pt"
        save_atomically(state, path)
        for old in checkpoint_files(folder)[keep:]:
            old.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: Location) -> Checkpoint:
        state = torch.load(readable(path), map_location="cpu", weights_only=True)
        return cls(
            position=Position(**state["position"]),
            networks=state["networks"],
            optimizers=state["optimizers"],
            labels=_unpack_labels(state["labels"]),
            local_buffers=state["local_buffers"],
            ahead=state["ahead"],
            evaluated=state["evaluated"],
        )


def checkpoint_files(folder: Location) -> list[Location]:
    """Resumable states in `folder`, newest first."""
    return sorted(folder.glob("step-*.pt"), reverse=True)


def latest_checkpoint(folder: Location) -> Location | None:
    """The newest whole checkpoint, or None where there is none yet.

    A damaged one is named in a warning and passed over; where all are damaged, `RunError`: to begin again without a
    word would lose work.
    """
    files = checkpoint_files(folder)
    for path in files:
        if _is_whole(path):
            return path
        warnings.warn(f"Checkpoint {path} is damaged; trying the one before.", stacklevel=2)
    if files:
        raise RunError(
            f"No checkpoint in {folder} can be read ({', '.join(path.name for path in files)}); bring one back from a "
            f"copy, or remove the run directory to begin again."
        )
    return None


@contextmanager
def of_this_version(path: Location) -> Iterator[None]:
    """`RunError` where what a whole checkpoint holds does not fit in what this version of reid_ray makes of the run."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"Checkpoint {path} was written by another version of reid_ray, which holds other things in it; finish the "
            f"run with that version, or begin it anew under another name."
        ) from error


def _is_whole(path: Location) -> bool:
    """Whether every part of the file is there and has its checksum (torch files are zip archives)."""
    try:
        with zipfile.ZipFile(readable(path)) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False


def save_atomically(state: Any, path: Location) -> None:
    """`torch.save` so that `path` is never half-written; `RunError` where the storage is full or gone."""
    with replacing(path) as file:
        torch.save(state, file)


def _pack_labels(labels: PseudoLabels | None) -> dict[str, Any] | None:
    if labels is None:
        return None
    arrays = {name: torch.tensor(getattr(labels, name)) for name in LABEL_ARRAYS}
    centroids = None if labels.source_centroids is None else torch.tensor(labels.source_centroids)
    return {"version": labels.version, "threshold": labels.threshold, "source_centroids": centroids, **arrays}


def _unpack_labels(packed: dict[str, Any] | None) -> PseudoLabels | None:
    if packed is None:
        return None
    arrays: dict[str, Any] = {name: packed[name].numpy() for name in LABEL_ARRAYS}
    if packed.get("source_centroids") is not None:
        arrays["source_centroids"] = packed["source_centroids"].numpy()
    return PseudoLabels(version=packed["version"], threshold=packed.get("threshold"), **arrays)
