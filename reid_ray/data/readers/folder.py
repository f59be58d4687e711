"""A folder of crops, as people have them: perhaps no identities, perhaps no cameras, perhaps no splits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePath

from reid_ray.config import DataConfig
from reid_ray.data.readers.numbering import camera_numbers, person_numbers
from reid_ray.data.readers.scan import Rows, Scan, existing_root, image_files
from reid_ray.data.table import SPLITS
from reid_ray.errors import DataError
from reid_ray.locations import Location, relative_path
from reid_ray.types import UNKNOWN

NameOf = Callable[[PurePath], str | None]
"""From a path relative to its split's folder to the name of a camera or person; None where it has none."""


def scan(config: DataConfig) -> Scan:
    """Read every image below `config.root`.

    Where `root` has a folder `train`, it and the folders `query` and `gallery` beside it are the splits;
    otherwise everything is train. The camera is the folder at `camera_level` below the split's folder, or the
    first group of `camera_regex`, searched in the path relative to the split's folder (with `/`); `pid_regex`
    likewise gives the identity. Each must fit every file, save that a train split in which no file fits
    `pid_regex` has no identities, which is what training without labels expects. Numbering is common to all
    splits; see `numbering`.

    Raises:
        DataError: a regular expression that does not compile, has no group or fits no file; query without
        gallery or
            the other way round.
    """
    root = existing_root(config.root, "a folder of images")
    folders = _split_folders(root)
    files = {split: image_files(folder) for split, folder in folders.items()}
    relative = {path: relative_path(path, folders[split]) for split, paths in files.items() for path in paths}
    rows = Rows()
    cameras = _names(relative, _camera_rule(config), rows, _camera_setting(config))
    persons = _person_names(files, relative, config.pid_regex, rows)
    camera_number, person_number = camera_numbers(cameras.values()), person_numbers(persons.values())
    refused = {problem.path for problem in rows.problems}
    for split, paths in files.items():
        for path in paths:
            if str(path) not in refused:
                pid = person_number[persons[path]] if path in persons else UNKNOWN
                camid = camera_number[cameras[path]] if path in cameras else UNKNOWN
                rows.add(path, split, pid, camid)
    return Scan(
        rows.table(root.resolve().name or "images"),
        problems=tuple(rows.problems),
        folders=tuple(folders.values()),
        needs=tuple((split, str(folder)) for split, folder in folders.items()),
    )


def _split_folders(root: Location) -> dict[str, Location]:
    found = {split: root / split for split in SPLITS if (root / split).is_dir()}
    if "train" not in found and len(found) < 2:
        return {"train": root}
    for split in SPLITS:
        if split not in found and len(found) > 1:
            present = " and ".join(f"{name}/" for name in found)
            raise DataError(f"{root} has {present} but no {split}/; add it, or leave only train/.")
    return found


def _camera_rule(config: DataConfig) -> NameOf | None:
    if config.camera_regex is not None:
        return _regex_rule(config.camera_regex, "data.camera_regex")
    if config.camera_level is not None:
        level = config.camera_level
        return lambda path: path.parts[level] if level < len(path.parts) - 1 else None
    return None


def _camera_setting(config: DataConfig) -> str:
    if config.camera_regex is not None:
        return f"does not fit data.camera_regex '{config.camera_regex}'; change it, or move the file"
    return f"has no folder at data.camera_level={config.camera_level}; use a smaller level, or move the file"


def _regex_rule(expression: str, setting: str) -> NameOf:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise DataError(f"{setting} '{expression}' is no regular expression: {error}.") from error
    if not pattern.groups:
        raise DataError(f"{setting} '{expression}' has no group; put ( ) around the part that is the name.")

    def name_of(path: PurePath) -> str | None:
        match = pattern.search(path.as_posix())
        return (match.group(1) or None) if match else None  # an empty name names nothing

    return name_of


def _names(relative: Mapping[Location, PurePath], rule: NameOf | None, rows: Rows, failure: str) -> dict[Location, str]:
    """File → name of its camera or person; a problem for every file to which the rule gives none."""
    if rule is None:
        return {}
    named = {path: rule(part) for path, part in relative.items()}
    for path, name in named.items():
        if name is None:
            rows.refuse("misnamed", path, failure)
    return {path: name for path, name in named.items() if name is not None}


def _person_names(
    files: Mapping[str, list[Location]], relative: Mapping[Location, PurePath], expression: str | None, rows: Rows
) -> dict[Location, str]:
    if expression is None:
        return {}
    rule = _regex_rule(expression, "data.pid_regex")
    train = set(files["train"])
    if len(files) > 1 and all(rule(relative[path]) is None for path in train):
        relative = {path: part for path, part in relative.items() if path not in train}
    return _names(relative, rule, rows, f"does not fit data.pid_regex '{expression}'; change it, or move the file")
