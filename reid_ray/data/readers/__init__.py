"""Dataset readers: one file per layout, each building an `ImageTable`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from reid_ray.config import DataConfig
from reid_ray.config.data import Layout
from reid_ray.data.decoding import Decoding
from reid_ray.data.embedded_images import EmbeddedImages
from reid_ray.data.holdout import hold_out
from reid_ray.data.images import Dataset, FileImages
from reid_ray.data.packed_images import PackedImages
from reid_ray.data.readers import (
    csv_file,
    cuhk03_np,
    dukemtmc,
    folder,
    image_folder,
    market1501,
    mars,
    msmt17,
    packed,
    parquet_file,
    regdb,
    synthetic,
    sysu_mm01,
    veri776,
)
from reid_ray.data.readers.attribute_file import add_attributes
from reid_ray.data.readers.detect import detect_layout
from reid_ray.data.readers.scan import Problem, Scan
from reid_ray.errors import DataError
from reid_ray.io.paths import as_path

SCANNERS: dict[Layout, Callable[[DataConfig], Scan]] = {
    "synthetic": synthetic.scan,
    "market1501": market1501.scan,
    "msmt17": msmt17.scan,
    "dukemtmc": dukemtmc.scan,
    "cuhk03-np": cuhk03_np.scan,
    "veri776": veri776.scan,
    "sysu-mm01": sysu_mm01.scan,
    "regdb": regdb.scan,
    "mars": mars.scan,
    "folder": folder.scan,
    "imagefolder": image_folder.scan,
    "csv": csv_file.scan,
    "parquet": parquet_file.scan,
    "packed": packed.scan,
}

__all__ = ["SCANNERS", "Problem", "Scan", "detect_layout", "read_dataset", "scan_dataset"]


def read_dataset(config: DataConfig) -> Dataset:
    """The dataset that `config` describes: train rows first, then query, then gallery; file lists are sorted.

    With `config.holdout`, query and gallery are identities of the training split (`hold_out`). Images are not opened.

    Raises:
        DataError: nothing at `config.root`, another layout, a file that cannot be a row (the first is named), a
            required split without images, attributes that cannot be read or are of other identities, or no identity to
            hold out.
    """
    found = scan_dataset(config)
    problems = [*found.problems, *found.empty_splits()]
    if problems:
        more = f" And {len(problems) - 1} more; 'reid-ray data check' lists them." if len(problems) > 1 else ""
        raise DataError(problems[0].detail + more)
    table = hold_out(found.table, config.holdout) if config.holdout else found.table
    return Dataset(table, found.images)


def scan_dataset(config: DataConfig) -> Scan:
    """As `read_dataset`, without stopping at files that cannot be rows, for `reid_ray.data.check`."""
    found = SCANNERS[config.layout](config)
    if isinstance(found.images, (FileImages, PackedImages, EmbeddedImages)):
        found = replace(found, images=replace(found.images, decoding=Decoding.of(config)))
    if config.attributes is not None:
        found = add_attributes(found, as_path(config.attributes), age=config.age)
    if config.meshes.rendered is not None:
        from reid_ray.data.meshes import with_rendered  # compiled kernels are imported only where there are meshes

        found = replace(found, table=with_rendered(found.table, as_path(config.meshes.rendered)))
    if config.use_cameras:
        return found
    return replace(found, table=found.table.without_cameras())
