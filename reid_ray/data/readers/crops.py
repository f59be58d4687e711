"""Crops on disk, before they become rows: their splits, and the names of their identities and cameras.

The layouts `folder` and `imagefolder` differ only in the source of identities; this module has what they share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from reid_ray.config import DataConfig
from reid_ray.data.readers.numbering import camera_numbers, person_numbers
from reid_ray.data.readers.scan import Rows, Scan, image_files
from reid_ray.data.table import SPLITS
from reid_ray.errors import DataError
from reid_ray.io.paths import Location, relative_path
from reid_ray.types import UNKNOWN

SPLIT_FOLDERS = {
    "train": ("train", "bounding_box_train", "image_train"),
    "query": ("query", "image_query", "probe"),
    "gallery": ("gallery", "bounding_box_test", "image_test", "test"),
}
"""Split → names of its folder: this package's first, then those of published datasets."""


@dataclass(frozen=True)
class Crop:
    """An image file of a split.

    Attributes:
        path: the file.
        split: train, query or gallery.
        inside: its path below the folder of the split (or below the root, if expressions select the split).
        named: matches of the groups `pid` and `camera` of the split's expression, if it has such groups.
    """

    path: Location
    split: str
    inside: PurePosixPath
    named: Mapping[str, str | None]


NameOf = Callable[[Crop], str | None]
"""The name of a crop's identity or camera; `NO_NAME` if it is not known, None if the rule does not match."""

NO_NAME = ""


@dataclass(frozen=True)
class Rule:
    """A rule for the names of crops' identities or cameras.

    Attributes:
        name_of: the rule.
        failure: message for a crop that does not match, to be placed after the file's name.
    """

    name_of: NameOf
    failure: str


def split_folders(root: Location) -> dict[str, Location]:
    """Split → folder, by the names in `SPLIT_FOLDERS`; `root` itself is train where it has no folder for train.

    A folder `test` is the gallery only where there are queries.

    Raises:
        DataError: query without gallery, gallery without query, or both without train.
    """
    found: dict[str, Location] = {}
    for split, names in SPLIT_FOLDERS.items():
        usable = [name for name in names if name != "test" or "query" in found]
        present = next((root / name for name in usable if (root / name).is_dir()), None)
        if present is not None:
            found[split] = present
    if "train" not in found and len(found) < 2:
        return {"train": root}
    for split in SPLITS:
        if split not in found and len(found) > 1:
            present_names = " and ".join(f"{folder.name}/" for folder in found.values())
            raise DataError(f"{root} has {present_names} but no {split}/; add it, or leave only train/.")
    return found


def crops_in_folders(folders: Mapping[str, Location]) -> list[Crop]:
    """The images below the folder of each split, sorted by path within a split."""
    return [
        Crop(path, split, relative_path(path, folder), {})
        for split, folder in folders.items()
        for path in image_files(folder)
    ]


def crops_by_expressions(root: Location, expressions: Mapping[str, str], rows: Rows) -> list[Crop]:
    """The images below `root` whose path matches exactly one expression; any other image is a problem.

    Args:
        expressions: split → regular expression, searched in the path below `root` with `/`. Its groups `pid` and
            `camera` name the identity and the camera.
    """
    patterns = {split: compiled(text, f"data.{split}_regex") for split, text in expressions.items()}
    settings = {split: f"data.{split}_regex" for split in patterns}
    crops = []
    for path in image_files(root):
        inside = relative_path(path, root)
        matches = {split: match for split, p in patterns.items() if (match := p.search(inside.as_posix()))}
        if len(matches) == 1:
            ((split, match),) = matches.items()
            crops.append(Crop(path, split, inside, match.groupdict()))
        elif matches:
            both = " and ".join(settings[split] for split in matches)
            rows.refuse("misnamed", path, f"fits {both}; make them exclude each other")
        else:
            rows.refuse("misnamed", path, f"fits none of {', '.join(settings.values())}; change them, or move the file")
    return crops


def compiled(expression: str, setting: str) -> re.Pattern[str]:
    """Compile the regular expression of a setting; `DataError` if it is invalid."""
    try:
        return re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise DataError(f"{setting} '{expression}' is not a regular expression: {error}.") from error


def camera_rule(config: DataConfig) -> Rule | None:
    """The configured rule for names of cameras; None without one."""
    if config.camera_regex is not None:
        name_of = expression_rule(config.camera_regex, "data.camera_regex")
        return Rule(name_of, f"does not fit data.camera_regex '{config.camera_regex}'; change it, or move the file")
    if config.camera_level is not None:
        level = config.camera_level
        return Rule(
            lambda crop: crop.inside.parts[level] if level < len(crop.inside.parts) - 1 else None,
            f"has no folder at data.camera_level={level}; use a smaller level, or move the file",
        )
    return None


def expression_rule(expression: str, setting: str) -> NameOf:
    """The first group of an expression that is searched in the path below the split's folder."""
    pattern = compiled(expression, setting)
    if not pattern.groups:
        raise DataError(f"{setting} '{expression}' has no group; put ( ) around the part that is the name.")

    def name_of(crop: Crop) -> str | None:
        match = pattern.search(crop.inside.as_posix())
        return (match.group(1) or None) if match else None  # an empty name names nothing

    return name_of


def group_rule(config: DataConfig, group: str, otherwise: Rule | None) -> Rule | None:
    """Rule by this group of the splits' expressions; the other rule applies to splits whose expression lacks the
    group."""
    expressions = config.split_regexes()
    if not any(group in compiled(text, f"data.{split}_regex").groupindex for split, text in expressions.items()):
        return otherwise

    def name_of(crop: Crop) -> str | None:
        if group in crop.named:
            return crop.named[group] or None
        return otherwise.name_of(crop) if otherwise else NO_NAME

    return Rule(name_of, f"has no {group} by the group of its split's expression; change it, or move the file")


def scan_crops(
    crops: Sequence[Crop],
    rows: Rows,
    *,
    name: str,
    cameras: Rule | None,
    pids: Rule | None,
    folders: Mapping[str, Location],
    needs: Mapping[str, Location],
    notes: tuple[str, ...] = (),
) -> Scan:
    """Rows of crops. Cameras and identities are numbered over all splits; see `numbering`.

    Args:
        rows: contains the problems found so far.
        cameras, pids: the rules; None if nothing is known. A crop that does not match is a problem.
        folders: folders in which every file is expected to be an image.
        needs: split → where its images should be.
    """
    camera_names = _names(crops, cameras, rows)
    pid_names = _names(crops, pids, rows)
    camera_number = {**camera_numbers(filter(None, camera_names.values())), NO_NAME: UNKNOWN}
    pid_number = {**person_numbers(filter(None, pid_names.values())), NO_NAME: UNKNOWN}
    for crop in crops:
        if crop.path in camera_names and crop.path in pid_names:
            rows.add(crop.path, crop.split, pid_number[pid_names[crop.path]], camera_number[camera_names[crop.path]])
    return Scan(
        rows.table(name),
        problems=tuple(rows.problems),
        folders=tuple(dict.fromkeys(folders.values())),
        needs=tuple((split, str(place)) for split, place in needs.items()),
        notes=notes,
    )


def _names(crops: Sequence[Crop], rule: Rule | None, rows: Rows) -> dict[Location, str]:
    """File → name; a file that does not match the rule has no entry, but a problem."""
    if rule is None:
        return dict.fromkeys((crop.path for crop in crops), NO_NAME)
    names: dict[Location, str] = {}
    for crop in crops:
        found = rule.name_of(crop)
        if found is None:
            rows.refuse("misnamed", crop.path, rule.failure)
        else:
            names[crop.path] = found
    return names
