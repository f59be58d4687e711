"""Datasets of a layout, and their rows in a form that is easy to compare; for the tests of readers and of packing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reid_ray.config import DataConfig
from reid_ray.data import Dataset, read_dataset


def read(layout: Any, root: Path | str, **settings: Any) -> Dataset:
    return read_dataset(DataConfig(layout=layout, root=str(root), **settings))


def rows(dataset: Dataset) -> list[tuple[str, str, int, int]]:
    """(split, file name, pid, camid) of each row."""
    columns = dataset.table.arrow.to_pydict()
    names = [Path(path).name for path in columns["path"]]
    return list(zip(columns["split"], names, columns["pid"], columns["camid"], strict=True))
