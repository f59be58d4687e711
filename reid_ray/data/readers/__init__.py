"""Dataset readers: a file per layout, each ending in an `ImageTable`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from reid_ray.config import DataConfig
from reid_ray.config.data import Layout
from reid_ray.data.holdout import hold_out
from reid_ray.data.images import Dataset
from reid_ray.data.readers import (
    csv_file,
    cuhk03_np,
    dukemtmc,
    folder,
    market1501,
    msmt17,
    packed,
    parquet_file,
    synthetic,
)
from reid_ray.data.readers.detect import detect_layout
from reid_ray.data.readers.scan import Problem, Scan
from reid_ray.errors import DataError

SCANNERS: dict[Layout, Callable[[DataConfig], Scan]] = {
    "synthetic": synthetic.scan,
    "market1501": market1501.scan,
    "msmt17": msmt17.scan,
    "dukemtmc": dukemtmc.scan,
    "cuhk03-np": cuhk03_np.scan,
    "folder": folder.scan,
    "csv": csv_file.scan,
    "parquet": parquet_file.scan,
    "packed": packed.scan,
}

__all__ = ["SCANNERS", "Problem", "Scan", "detect_layout", "read_dataset", "scan_dataset"]


def read_dataset(config: DataConfig) -> Dataset:
    """The dataset that `config` describes: train rows first, then query, then gallery; file lists are sorted.

    With `config.holdout`, query and gallery are people of the training split (`hold_out`).

    Raises:
        DataError: nothing at `config.root`, something else than the layout says, a file that cannot be a row (the first
            is named), a split without images that the layout needs, or nobody to hold out. Images are not opened here.
    """
    found = scan_dataset(config)
    problems = [*found.problems, *found.empty_splits()]
    if problems:
        more = f" And {len(problems) - 1} more; 'reid-ray data check' lists them." if len(problems) > 1 else ""
        raise DataError(problems[0].detail + more)
    table = hold_out(found.table, config.holdout) if config.holdout else found.table
    return Dataset(table, found.images)


def scan_dataset(config: DataConfig) -> Scan:
    """The same without stopping at files that cannot be rows, for `reid_ray.data.check`."""
    found = SCANNERS[config.layout](config)
    if config.use_cameras:
        return found
    return replace(found, table=found.table.without_cameras())
