"""One folder per identity, as in torchvision's `ImageFolder` and most labelled collections."""

from __future__ import annotations

from dataclasses import replace

from reid_ray.config import DataConfig
from reid_ray.data.holdout import as_query_and_gallery
from reid_ray.data.readers.crops import (
    SPLIT_FOLDERS,
    Crop,
    Rule,
    camera_rule,
    crops_in_folders,
    scan_crops,
    split_folders,
)
from reid_ray.data.readers.scan import Rows, Scan, existing_root
from reid_ray.io.paths import Location

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Folders of test images that are not divided into query and gallery; the first that exists is read."""


def scan(config: DataConfig) -> Scan:
    """Read `root`/IDENTITY/… or `root`/SPLIT/IDENTITY/…; the name of the first folder is the identity.

    Splits are folders, as in the layout `folder`. A `test` (or `val`) next to `train`, without queries, is divided: one
    image per camera of each identity is a query as long as the gallery keeps a match (`query_rows`). Without such
    folders everything is train; `data.holdout` then makes a validation set. Cameras are named as in `folder`, with the
    identity's folder at level 0.

    Raises:
        DataError: as in the layout `folder`.
    """
    root = existing_root(config.root, "a folder with one folder of images per identity")
    folders, is_divided = _folders(root)
    found = scan_crops(
        crops_in_folders(folders),
        Rows(),
        name=root.resolve().name or "images",
        cameras=camera_rule(config),
        pids=Rule(_first_folder, "is in no folder of an identity; move it into one"),
        folders=folders,
        needs=folders,
    )
    if not is_divided:
        return found
    note = f"images of {folders['gallery']} divided into query and gallery, by camera where it is known"
    return replace(
        found,
        table=as_query_and_gallery(found.table),
        needs=(("train", str(folders["train"])), ("query", str(folders["gallery"]))),
        notes=(*found.notes, note),
    )


def _folders(root: Location) -> tuple[dict[str, Location], bool]:
    """Split → folder, and whether the gallery must be divided into query and gallery."""
    train = next((root / name for name in SPLIT_FOLDERS["train"] if (root / name).is_dir()), None)
    has_query = any((root / name).is_dir() for name in SPLIT_FOLDERS["query"])
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if train is not None and test is not None and not has_query:
        return {"train": train, "gallery": test}, True
    return split_folders(root), False


def _first_folder(crop: Crop) -> str | None:
    return crop.inside.parts[0] if len(crop.inside.parts) > 1 else None
