"""Features that a stage trains on in place of images: extracted once, stored in the run directory, memory-mapped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from reid_ray.inference.retriever import Retriever
from reid_ray.io.files import atomic_write, storage_errors
from reid_ray.io.local_copy import local_copy
from reid_ray.io.paths import Location
from reid_ray.methods import Stage
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.services import Services, run_on_main
from reid_ray.types import FeatureRows, FloatArray

ROWS_AT_ONCE = 4096


def stage_features(
    stage: Stage,
    directory: RunDirectory,
    retriever_of: Callable[[str], Retriever],
    services: Services,
    context: DistributedContext,
) -> dict[str, FloatArray]:
    """The features of each stream that has a cache, float32 [copies, N, D], read-only.

    Every worker calls it. Features are extracted if their file does not exist; a resumed run reads the existing file.

    Args:
        retriever_of: name of a module → retriever that embeds with it.
    """
    found = {}
    for name, stream in stage.streams.items():
        if stream.cache is None:
            continue
        file = directory.features_file(stage.name, name)
        if not run_on_main(context, file.exists):
            rows = services.extract_copies(retriever_of(stream.cache.module), stream.cache, stream.data)
            run_on_main(context, partial(write_features, file, rows, stream.cache.copies))
        found[name] = np.load(local_copy(file), mmap_mode="r")
    return found


def write_features(file: Location, rows: FeatureRows, copies: int) -> None:
    """Write features float32 [copies·N, D] as an array [copies, N, D], in chunks."""
    n_rows, dim = rows.shape
    header = {"descr": "<f4", "fortran_order": False, "shape": (copies, n_rows // copies, dim)}
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, n_rows, ROWS_AT_ONCE):
            stream.write(np.ascontiguousarray(rows[start : start + ROWS_AT_ONCE], dtype="<f4").tobytes())
