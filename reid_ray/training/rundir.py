"""The run directory: the files of a run, and the rule that a directory belongs to one configuration.

lease.json             the process that trains here, while one does
config.yaml            the format of the directory, the hash of the configuration, and the resolved configuration
constraints.csv        the label corrections that the run applies, if there are any
images.parquet         the table of training and evaluation images; images-source.parquet for a source
metrics.jsonl          one event per line
labels/epoch-000.parquet   the labels of each epoch of the main stage; STAGE-epoch-000.parquet for earlier stages
features/              features that a stage trains on
generated/STAGE-epoch-000-NAME.png   images that a generative method rendered after this number of epochs of a stage
checkpoints/           resumable states, and the exported models `model-last.pt`, `model-best.pt`, `model-STAGE.pt`
diverged-0.pt          the batch of each worker (by rank), if the run stopped because its loss was not finite
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from reid_ray.config import Config, config_hash, dump_config, hashed_settings, load_config
from reid_ray.data.images import Dataset, ImageReader
from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError, RunError
from reid_ray.io.files import atomic_write_bytes, parquet_bytes, storage_errors
from reid_ray.io.lease import LEASE, Fence, hold, is_lease
from reid_ray.io.paths import Location, RemotePath, as_path
from reid_ray.labels.constraints import read_file
from reid_ray.training.checkpoint import FORMAT, checkpoint_files
from reid_ray.training.datasets import MAIN
from reid_ray.training.metrics import read_metrics
from reid_ray.types import Labels

HASH_PREFIX = "# config hash: "
FORMAT_PREFIX = "# run directory format: "


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run, and operations on them."""

    path: Location

    @classmethod
    def of(cls, config: Config) -> RunDirectory:
        """The run directory of a configuration, as an absolute path; nothing is created."""
        return cls((as_path(config.output) / config.name).resolve())

    @property
    def config_file(self) -> Location:
        return self.path / "config.yaml"

    @property
    def images_file(self) -> Location:
        return self.images_file_of(MAIN)

    def images_file_of(self, section: str) -> Location:
        """The table of a section of the configuration."""
        return self.path / ("images.parquet" if section == MAIN else f"images-{section}.parquet")

    def features_file(self, stage: str, stream: str) -> Location:
        """Features that a stage trains on, float32 [copies, N, D]."""
        return self.path / "features" / f"{stage}-{stream}.npy"

    def generated_file(self, stage: str, epoch: int, name: str) -> Location:
        """A picture that the method rendered after `epoch` epochs of a stage."""
        return self.path / "generated" / f"{stage}-epoch-{epoch:03d}-{name}.png"

    @property
    def constraints_file(self) -> Location:
        """A copy of the file `labels.constraints`, so that the run does not depend on later changes to it."""
        return self.path / "constraints.csv"

    @property
    def metrics_file(self) -> Location:
        return self.path / "metrics.jsonl"

    @property
    def lease_file(self) -> Location:
        return self.path / LEASE

    @property
    def labels(self) -> Location:
        return self.path / "labels"

    @property
    def checkpoints(self) -> Location:
        return self.path / "checkpoints"

    def datasets(self, readers: Mapping[str, ImageReader]) -> dict[str, Dataset]:
        """The run's tables by section, as written by `create`, with readers for their images."""
        return {
            section: Dataset(ImageTable.read(self.images_file_of(section)), reader)
            for section, reader in readers.items()
        }

    def diverged_file(self, rank: int) -> Location:
        """File with a worker's batch whose loss is not finite."""
        return self.path / f"diverged-{rank}.pt"

    def model_file(self, which: str) -> Location:
        """`which` is `last`, `best`, or the name of a stage before the main one."""
        return self.checkpoints / f"model-{which}.pt"

    @property
    def begun(self) -> bool:
        """Whether the run has a checkpoint, intact or damaged, and so does not start from its initial weights."""
        return bool(checkpoint_files(self.checkpoints))

    def check_format(self) -> None:
        """Raise `RunError` if the directory was written by a version of reid_ray with another format."""
        if not self.config_file.exists():
            return
        found = self._header(FORMAT_PREFIX) or "1"
        if found != str(FORMAT):
            raise RunError(
                f"{self.path} is a run directory of format {found}, and this version of reid_ray reads format "
                f"{FORMAT}; finish the run with the version that began it, or train again under another name=…."
            )

    def check(self, config: Config) -> None:
        """Raise `RunError` if this directory holds another configuration's run, or cannot be one.

        A run without a checkpoint has nothing to lose, so another configuration may replace it.
        """
        if not self.config_file.exists():
            if self.path.exists() and (not self.path.is_dir() or not all(map(is_lease, self.path.iterdir()))):
                raise RunError(
                    f"{self.path} exists and is not a run directory; choose another name=… or output=…, or remove it."
                )
            return
        if not self.begun:
            return
        self.check_format()
        if self._header(HASH_PREFIX) != config_hash(config):
            changes = self._differences(config)
            raise RunError(
                f"{self.path} holds a run of another configuration ({'; '.join(changes[:3]) or 'of another version'}); "
                f"choose another name=…, or remove the directory."
            )
        recorded = self.constraints_file.read_bytes() if self.constraints_file.exists() else None
        if recorded != _constraints_of(config):
            raise RunError(
                f"{self.path} holds a run with other label constraints; choose another name=…, or set "
                f"labels.constraints={self.constraints_file if recorded is not None else 'null'}."
            )

    def _header(self, prefix: str) -> str | None:
        """The text after this prefix in a comment at the top of config.yaml; None without such a line."""
        lines = self.config_file.read_text(encoding="utf-8").splitlines()[:2]
        return next((line.removeprefix(prefix) for line in lines if line.startswith(prefix)), None)

    def _differences(self, config: Config) -> list[str]:
        """Differences from the configuration stored here; none if that cannot be read."""
        try:
            return leaf_changes(hashed_settings(load_config(self.config_file)), hashed_settings(config))
        except ConfigError:
            return []

    def is_complete(self, config: Config) -> bool:
        """Whether this run has been trained for the configured number of epochs."""
        ended = [event for event in read_metrics(self.metrics_file) if event["event"] == "end"]
        return bool(ended) and bool(ended[-1]["epochs"] >= config.training.epochs)

    def held(self) -> AbstractContextManager[Fence]:
        """Create the directory and lock it for the block, so that no other process trains into it.

        Raises:
            RunError: another process trains into it, or it cannot be written.
        """
        return hold(self.lease_file, f"training into {self.path}", self._progress)

    def _progress(self) -> str:
        epochs = [event["epoch"] for event in read_metrics(self.metrics_file) if "epoch" in event]
        return f"in epoch {epochs[-1]}" if epochs else "before its first epoch"

    def create(self, config: Config, datasets: Mapping[str, Dataset]) -> None:
        """Create the directory with configuration and tables; with the same arguments again, the run is resumed.

        Args:
            datasets: the data that the run reads, by section of the configuration.

        Raises:
            RunError: it cannot be written, or holds a run of another configuration or of other images.
        """
        self.check(config)
        tables = {self.images_file_of(section): dataset.table for section, dataset in datasets.items()}
        for file, table in tables.items():
            known = self.begun and file.exists()
            if known and not ImageTable.read(file).arrow.equals(table.arrow):
                raise RunError(
                    f"{self.path} holds a run on other images: {table.name} has changed since it began. Choose another "
                    f"name=…, or bring the images back as they were."
                )
        with storage_errors(self.path):
            for folder in (self.path, self.labels, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            self.remove_abandoned()
        for file, table in tables.items():
            atomic_write_bytes(file, parquet_bytes(table.arrow))
        constraints = _constraints_of(config)
        if constraints is not None:
            atomic_write_bytes(self.constraints_file, constraints)
        else:
            self.constraints_file.unlink(missing_ok=True)
        header = f"{HASH_PREFIX}{config_hash(config)}\n{FORMAT_PREFIX}{FORMAT}\n"
        atomic_write_bytes(self.config_file, f"{header}{dump_config(config)}".encode())

    def remove_abandoned(self) -> None:
        """Remove incomplete files of killed processes; no process of this run may be running."""
        if isinstance(self.path, RemotePath):  # objects are never half-written, but Ray Train leaves a folder
            for left in self.path.glob(".*"):
                left.remove_tree()
            return
        for kind in (".*.tmp", ".*.mark"):
            for abandoned in self.path.rglob(kind):
                abandoned.unlink(missing_ok=True)

    def write_labels(self, labels: Labels, table: ImageTable, stage: str = "") -> None:
        """Write labels/epoch-EEE.parquet: path, label and camid of every training image, and pid if known.

        Args:
            stage: name of a stage before the main one, used as prefix of the file name; empty for the main stage.
        """
        columns: dict[str, Any] = {
            "path": table.arrow["path"],
            "label": pa.array(labels.labels),
            "camid": table.arrow["camid"],
        }
        if table.has_pids:
            columns["pid"] = table.arrow["pid"]
        name = f"{stage}-epoch-{labels.version:03d}" if stage else f"epoch-{labels.version:03d}"
        atomic_write_bytes(self.labels / f"{name}.parquet", parquet_bytes(pa.table(columns)))


def _constraints_of(config: Config) -> bytes | None:
    """The content of the file of constraints."""
    file = config.labels.constraints
    return None if file is None else read_file(file)


def leaf_changes(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`key was old and is new` for each leaf that differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{prefix.rstrip('.')} was {old} and is {new}"]
    return [
        change
        for key in sorted(set(old) | set(new))
        for change in leaf_changes(old.get(key), new.get(key), f"{prefix}{key}.")
    ]
