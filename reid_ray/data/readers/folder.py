"""A folder of crops, with or without identities, cameras and splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reid_ray.config import DataConfig
from reid_ray.data.images import printable
from reid_ray.data.readers.crops import (
    NO_NAME,
    Crop,
    Rule,
    camera_rule,
    crops_by_expressions,
    crops_in_folders,
    expression_rule,
    group_rule,
    scan_crops,
    split_folders,
)
from reid_ray.data.readers.scan import Rows, Scan, existing_root
from reid_ray.data.readers.tracklet_column import natural_key, with_tracklets
from reid_ray.data.table import ImageTable


def scan(config: DataConfig) -> Scan:
    """Read every image below `config.root`.

    Splits: by `train_regex`, `query_regex` and `gallery_regex`, where they are given; otherwise by folders, where
    `root` has `train` (or `bounding_box_train`, `image_train`; see `SPLIT_FOLDERS`); otherwise everything is train.

    Cameras: the group `camera` of the split's expression, the folder at `camera_level` below the split's folder, or the
    first group of `camera_regex`, searched in the path below the split's folder (with `/`). Identities: the group
    `pid`, or the first group of `pid_regex`. Each expression must match every file, with one exception: a train split
    in which no file matches `pid_regex` has no identities, as unsupervised training expects.

    With `config.tracklets`, the images directly in a folder are a tracklet, in the natural order of their names; those
    directly in the split's folder are in none.

    Raises:
        DataError: a regular expression that does not compile or has no group, files that do not match exactly one of
            the splits' expressions, query without gallery.
    """
    root = existing_root(config.root, "a folder of images")
    rows = Rows()
    expressions = config.split_regexes()
    if expressions:
        crops, folders, needs = (
            crops_by_expressions(root, expressions, rows),
            {"train": root},
            dict.fromkeys(expressions, root),
        )
    else:
        folders = split_folders(root)
        crops, needs = crops_in_folders(folders), folders
    cameras = group_rule(config, "camera", camera_rule(config))
    pids = group_rule(config, "pid", _pid_rule(config, crops, has_tests=len(needs) > 1))
    found = scan_crops(
        crops, rows, name=root.resolve().name or "images", cameras=cameras, pids=pids, folders=folders, needs=needs
    )
    if config.tracklets:
        found = replace(found, table=_with_folders_as_tracklets(found.table, crops))
    return replace(found, notes=_hint(crops) if cameras is None and pids is None else ())


def _pid_rule(config: DataConfig, crops: Sequence[Crop], *, has_tests: bool) -> Rule | None:
    if config.pid_regex is None:
        return None
    name_of = expression_rule(config.pid_regex, "data.pid_regex")
    failure = f"does not fit data.pid_regex '{config.pid_regex}'; change it, or move the file"
    if has_tests and all(name_of(crop) is None for crop in crops if crop.split == "train"):
        return Rule(lambda crop: NO_NAME if crop.split == "train" else name_of(crop), failure)
    return Rule(name_of, failure)


def _with_folders_as_tracklets(table: ImageTable, crops: Sequence[Crop]) -> ImageTable:
    inside_of = {str(crop.path): crop.inside for crop in crops}
    inside = [inside_of[path] for path in table.paths]
    folders = [path.parent.as_posix() if len(path.parts) > 1 else None for path in inside]
    return with_tracklets(table, folders, [natural_key(path.name) for path in inside])


def _hint(crops: Sequence[Crop]) -> tuple[str, ...]:
    """Note on folders inside the splits, whose names may be cameras or identities but are ignored without a setting."""
    inner = sorted({crop.inside.parts[0] for crop in crops if len(crop.inside.parts) > 1})
    if len(inner) < 2:
        return ()
    return (
        f"folders such as {printable(inner[0])}/ are read as neither cameras nor identities; data.camera_level=0 takes "
        f"them for cameras, data.layout=imagefolder for identities",
    )
