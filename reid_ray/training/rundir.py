"""The run directory: what a run leaves on disk, and the rule that one directory is one configuration.

config.yaml            the resolved configuration and its hash
images.parquet         the table of images it trains and is evaluated on
metrics.jsonl          one event a line
labels/epoch-000.parquet   the pseudo-labels of each epoch
checkpoints/           resumable states, and the exported models `model-last.pt`, `model-best.pt`
diverged-0.pt          the batch of each worker whose loss was not a number, where that ended the run
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reid_ray.config import Config, config_hash, dump_config, hashed_settings, load_config
from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError, RunError
from reid_ray.locations import Location, RemotePath, location
from reid_ray.training.checkpoint import checkpoint_files
from reid_ray.training.metrics import read_metrics
from reid_ray.training.storage import replacing, storage_errors
from reid_ray.types import PseudoLabels

HASH_PREFIX = "# config hash: "


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run, and what may be done to them."""

    path: Location

    @classmethod
    def of(cls, config: Config) -> RunDirectory:
        """Where this configuration's run lies, absolute; nothing is created."""
        return cls((location(config.output) / config.name).resolve())

    @property
    def config_file(self) -> Location:
        return self.path / "config.yaml"

    @property
    def images_file(self) -> Location:
        return self.path / "images.parquet"

    @property
    def metrics_file(self) -> Location:
        return self.path / "metrics.jsonl"

    @property
    def labels(self) -> Location:
        return self.path / "labels"

    @property
    def checkpoints(self) -> Location:
        return self.path / "checkpoints"

    def diverged_file(self, rank: int) -> Location:
        """What a worker writes of a batch whose loss is not finite."""
        return self.path / f"diverged-{rank}.pt"

    def model_file(self, which: str) -> Location:
        """`which` is `last` or `best`."""
        return self.checkpoints / f"model-{which}.pt"

    @property
    def begun(self) -> bool:
        """Whether the run has a checkpoint, damaged or whole: it goes on from there, not from its initial weights."""
        return bool(checkpoint_files(self.checkpoints))

    def check(self, config: Config) -> None:
        """Raise `RunError` if this directory holds another configuration's run, or cannot be one.

        A run that has no checkpoint yet has nothing to lose, and may begin again with another configuration.
        """
        if not self.config_file.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise RunError(
                    f"{self.path} exists and is not a run directory; choose another name=… or output=…, or remove it."
                )
            return
        if not self.begun:
            return
        first_line = self.config_file.read_text(encoding="utf-8").partition("\n")[0]
        if first_line.removeprefix(HASH_PREFIX) != config_hash(config):
            changes = self._differences(config)
            raise RunError(
                f"{self.path} holds a run of another configuration ({'; '.join(changes[:3]) or 'of another version'}); "
                f"choose another name=…, or remove the directory."
            )

    def _differences(self, config: Config) -> list[str]:
        """What differs from the configuration that stands here, where that can still be read."""
        try:
            return leaf_changes(hashed_settings(load_config(self.config_file)), hashed_settings(config))
        except ConfigError:
            return []

    def is_complete(self, config: Config) -> bool:
        """Whether this run has been trained for the configured number of epochs."""
        ended = [event for event in read_metrics(self.metrics_file) if event["event"] == "end"]
        return bool(ended) and bool(ended[-1]["epochs"] >= config.training.epochs)

    def create(self, config: Config, table: ImageTable) -> None:
        """Make the directory, write configuration and table; the same again is a resumption.

        Raises:
            RunError: it cannot be written, or holds a run of another configuration or of other images.
        """
        self.check(config)
        known = self.begun and self.images_file.exists()
        if known and not ImageTable.read(self.images_file).arrow.equals(table.arrow):
            raise RunError(
                f"{self.path} holds a run on other images: {table.name} has changed since it began. Choose another "
                f"name=…, or bring the images back as they were."
            )
        with storage_errors(self.path):
            for folder in (self.path, self.labels, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            self.remove_abandoned()
        write_atomically(self.images_file, parquet_bytes(table.arrow))
        write_atomically(self.config_file, f"{HASH_PREFIX}{config_hash(config)}\n{dump_config(config)}".encode())

    def remove_abandoned(self) -> None:
        """Remove what killed processes were writing; none of this run may be at work."""
        if isinstance(self.path, RemotePath):  # no object is half-written, and no janitor sees to Ray Train's folder
            for left in self.path.glob(".*"):
                left.remove_tree()
            return
        for kind in (".*.tmp", ".*.mark"):
            for abandoned in self.path.rglob(kind):
                abandoned.unlink(missing_ok=True)

    def write_labels(self, labels: PseudoLabels, table: ImageTable) -> None:
        """labels/epoch-EEE.parquet: path, label and camid of every training image, and pid where it is known."""
        columns: dict[str, Any] = {
            "path": table.arrow["path"],
            "label": pa.array(labels.labels),
            "camid": table.arrow["camid"],
        }
        if table.has_pids:
            columns["pid"] = table.arrow["pid"]
        write_atomically(self.labels / f"epoch-{labels.version:03d}.parquet", parquet_bytes(pa.table(columns)))


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def write_atomically(path: Location, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one; `RunError` where the storage gives out."""
    with replacing(path) as file:
        file.write(data)


def leaf_changes(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`key was old and is new` for each leaf that differs."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{prefix.rstrip('.')} was {old} and is {new}"]
    return [
        change
        for key in sorted(set(old) | set(new))
        for change in leaf_changes(old.get(key), new.get(key), f"{prefix}{key}.")
    ]
