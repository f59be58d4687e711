"""Checkpoints: everything a run needs to resume as if it had not been interrupted.

No random state is saved, because all randomness is keyed by (seed, epoch, step, …). Files are written under a temporary
name and renamed, so a killed process leaves a complete checkpoint or none; unreadable checkpoints are skipped.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from reid_ray.errors import RunError
from reid_ray.io.paths import Location, as_readable
from reid_ray.io.tensors import save_atomically
from reid_ray.models import local_buffers, set_local_buffers, synchronise_buffers
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.modules import Modules
from reid_ray.types import Labels

FORMAT = 2
"""Format version of checkpoints and run directories. Version 1 had one stage and stored no version."""


@dataclass
class TrainState:
    """Progress of a run.

    Attributes:
        stage: number of the current stage.
        epoch: epochs completed in the stage.
        step: steps completed in the current epoch.
        stage_step: steps completed in the stage.
        global_step: steps completed in total.
        degenerate: consecutive refreshes with degenerate labels.
        best: best value of the primary metric in the run's evaluations.
        refreshed: whether the current labels are those of the current epoch.
        metrics: bytes of metrics.jsonl that belong to this state.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    stage_step: int = 0
    global_step: int = 0
    degenerate: int = 0
    best: float = -1.0
    refreshed: bool = False
    metrics: int = 0

    @property
    def stage_begun(self) -> bool:
        """Whether the stage has labels or completed steps."""
        return bool(self.epoch or self.step or self.refreshed)


@dataclass
class Checkpoint:
    """A resumable state. `modules` and `optimizers` are state dicts by name.

    Attributes:
        local_buffers: each worker's own running BN statistics by module (`modules` has the merged ones), for runs that
            resume with the same number of workers.
        labels: by stream.
        ahead: state dict of the retriever that computes the next epoch's labels; None unless labels are stale.
        evaluated: state dict of the retriever being evaluated while training continues; None without one.
    """

    state: TrainState
    modules: dict[str, Any]
    optimizers: dict[str, Any]
    local_buffers: Sequence[Mapping[str, Tensor]] = ()
    labels: Mapping[str, Labels] = field(default_factory=dict)
    ahead: dict[str, Any] | None = None
    evaluated: dict[str, Any] | None = None

    def save(self, folder: Location, keep: int) -> Location:
        """Write `step-NNNNNNNN-S-E.pt` into `folder` and remove all but the newest `keep`."""
        state = self.state
        content = {
            "format": FORMAT,
            "state": asdict(state),
            "modules": self.modules,
            "optimizers": self.optimizers,
            "labels": {name: _pack_labels(labels) for name, labels in self.labels.items()},
            "local_buffers": list(self.local_buffers),
            "ahead": self.ahead,
            "evaluated": self.evaluated,
        }
        path = folder / f"step-{state.global_step:08d}-{state.stage}-{int(state.refreshed)}.pt"
        save_atomically(content, path)
        for old in checkpoint_files(folder)[keep:]:
            old.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: Location) -> Checkpoint:
        content = torch.load(as_readable(path), map_location="cpu", weights_only=True)
        return cls(
            state=TrainState(**content["state"]),
            modules=content["modules"],
            optimizers=content["optimizers"],
            labels={name: _unpack_labels(labels) for name, labels in content["labels"].items()},
            local_buffers=content["local_buffers"],
            ahead=content["ahead"],
            evaluated=content["evaluated"],
        )


def capture_modules(modules: Modules, context: DistributedContext) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """State dicts of modules with BN statistics merged over the workers, and each worker's own BN statistics.

    Every worker calls it. The modules keep the merged statistics until `restore_local_buffers` is called.
    """
    own = {name: local_buffers(module) for name, module in modules.items()}
    for module in modules.values():
        synchronise_buffers(module)
    merged = {name: module.state_dict() for name, module in modules.items()}
    return merged, context.all_gather_objects(own)


def restore_local_buffers(
    modules: Modules, buffers: Sequence[Mapping[str, Tensor]], context: DistributedContext
) -> None:
    """Restore each worker's own BN statistics if the number of workers is unchanged."""
    if len(buffers) == context.size:
        for name, module in modules.items():
            set_local_buffers(module, buffers[context.rank][name])


def checkpoint_files(folder: Location) -> list[Location]:
    """Resumable states in `folder`, newest first."""
    return sorted(folder.glob("step-*.pt"), reverse=True)


def latest_checkpoint(folder: Location) -> Location | None:
    """The newest intact checkpoint, or None if there is none yet.

    Damaged checkpoints are skipped with a warning. If all are damaged, `RunError` is raised, because a silent restart
    would lose work.
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
def version_errors(path: Location) -> Iterator[None]:
    """Raise `RunError` if an intact checkpoint does not fit the run as built by this version of reid_ray."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, UnpicklingError) as error:
        raise RunError(
            f"Checkpoint {path} was written by another version of reid_ray with different content; finish the "
            f"run with that version, or start it again under another name."
        ) from error


def _is_whole(path: Location) -> bool:
    """Whether every entry of the file is present and matches its checksum (torch files are zip archives)."""
    try:
        with zipfile.ZipFile(as_readable(path)) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False


def _pack_labels(labels: Labels) -> dict[str, Any]:
    """The part of the labels that resuming needs; what a method derives from the rest is in its modules."""
    return {"version": labels.version, "threshold": labels.threshold, "labels": torch.tensor(labels.labels)}


def _unpack_labels(packed: Mapping[str, Any]) -> Labels:
    return Labels(packed["version"], packed["labels"].numpy(), threshold=packed["threshold"])
