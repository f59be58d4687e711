"""Build an index from crops, and add to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from reid_ray.config import DataConfig
from reid_ray.data.feature_folder import FeatureFolder, Manifest, read_manifest
from reid_ray.data.images import Dataset, FileImages
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError, RunError
from reid_ray.io.lease import hold, is_lease
from reid_ray.io.paths import Location, as_path
from reid_ray.run import Run
from reid_ray.search.index import Index
from reid_ray.search.manifest import LEASE, MANIFEST, IndexManifest, Part, part_name, read_index_manifest


@dataclass(frozen=True)
class Addition:
    """Result of a call that adds images to an index.

    Attributes:
        n_images: added images.
        n_known: images that were already in the index.
        n_total: images in the index.
    """

    n_images: int
    n_known: int
    n_total: int


def build_index(
    run: Run,
    dataset: Dataset,
    data: DataConfig,
    out: str | Location,
    *,
    model: str = "last",
    append: bool = False,
    on_begin: Callable[[int, int], None] = lambda n_done, n_images: None,
    on_images: Callable[[int], None] = lambda n_images: None,
) -> Addition:
    """Embed crops and write them to an index; rerun an interrupted call to resume it.

    Args:
        run: run whose model embeds the crops.
        dataset: the crops; all rows of its table are indexed, in any split.
        data: settings by which `dataset` was read; the index uses them to find its images again.
        out: folder of the index.
        model: `last` or `best`.
        append: add the images that the index does not have yet; existing features are not computed again.
        on_begin: called with the number of images embedded by an earlier, interrupted call, and the number in total.
        on_images: called with the number of images after each batch.

    Raises:
        DataError: no images, an image that cannot be read, a folder that is not an index, an index without `append`.
        RunError: another process writes into the index, or it cannot be written; no such model.
    """
    index = as_path(out).absolute()
    _check_folder(index, append=append)
    if not len(dataset.table):
        raise DataError(f"{dataset.table.name} has no images to index.")
    model_file = run.directory.model_file(model)
    run.use_model(model)
    with hold(index / LEASE, f"indexing into {index}") as fence:
        _check_folder(index, append=append)  # another process may have finished meanwhile
        existing = read_index_manifest(index) if append else IndexManifest(str(run.path), model)
        new, n_before = _without_known(dataset, data, index if append else None)
        if not len(new):
            return Addition(0, len(dataset.table), n_before)
        part = Part(part_name(len(existing.parts)), data)
        manifest = Manifest.of(run.config, model_file, new)
        _check_same_model(index, existing, manifest)
        folder = FeatureFolder.begin(index / part.name, manifest, new)
        pending = folder.missing()
        n_pending = sum(len(manifest.shards[shard]) for shard in pending)
        on_begin(len(new) - n_pending, len(new))
        for shard in pending:
            fence.check()
            rows = manifest.shards[shard]
            table = new.take(np.arange(rows.start, rows.stop))
            folder.write(shard, run.embed_table(table, dataset, on_batch=on_images))
        fence.check()
        existing.with_part(part).write(index)
    return Addition(len(new), len(dataset.table) - len(new), n_before + len(new))


def _check_folder(index: Location, *, append: bool) -> None:
    """Raise `DataError` for a folder that is not an index, or if `append` is missing or wrong."""
    if (index / MANIFEST).is_file():
        if not append:
            raise DataError(f"{index} is an index already; add --append to add images, or choose another --out.")
        return
    if append:
        read_index_manifest(index)  # raises: there is none
    begun = {part_name(0), LEASE}
    if index.exists() and (
        not index.is_dir() or any(file.name not in begun and not _is_ours(file) for file in index.iterdir())
    ):
        raise DataError(f"{index} exists and is not an index; choose another --out.")


def _is_ours(file: Location) -> bool:
    """Whether a file belongs to a process that waits for the lease."""
    return is_lease(file) or file.name.startswith(".")


def _check_same_model(index: Location, existing: IndexManifest, new: Manifest) -> None:
    for part in existing.parts[:1]:
        first = read_manifest(index / part.name)
        difference = first.difference(replace(first, model=new.model, size=new.size, precision=new.precision))
        if difference:
            raise RunError(
                f"{index} holds features {difference}; features of two models do not compare, so build a new index."
            )


def _without_known(dataset: Dataset, data: DataConfig, index: Location | None) -> tuple[ImageTable, int]:
    """The rows that the index does not have yet, and the number of rows that it has."""
    if index is None:
        return dataset.table, 0
    opened = Index(index)
    is_file = isinstance(dataset.images, FileImages)
    known = {
        path
        for part, table in zip(opened.manifest.parts, opened.part_tables, strict=True)
        # File names are valid for any reader; keys of other storage are valid only there.
        if is_file or _storage(part.data) == _storage(data)
        for path in table["path"].to_pylist()
    }
    mask = np.array([path not in known for path in dataset.table.paths], dtype=bool)
    return dataset.table.where(mask), len(opened)


def _storage(data: DataConfig) -> tuple[object, ...]:
    """Where keys that are not file names belong."""
    return data.layout, data.root, data.synthetic
