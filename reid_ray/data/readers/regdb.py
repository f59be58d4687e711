"""RegDB (Nguyen et al., Sensors 2017): 412 people, ten visible and ten thermal images of each, ten splits in halves.

`Visible/<folder>/<name>_v_<number>_<id>.bmp` and `Thermal/…_t_….bmp`. The lists `idx/train_visible_3.txt` and so on are
those of trial 3; a line is `Visible/…bmp 17`: file, label.
"""

from __future__ import annotations

from reid_ray.config import DataConfig
from reid_ray.data.readers.file_lists import read_file_list
from reid_ray.data.readers.scan import Rows, Scan, existing_root, missing_files
from reid_ray.errors import DataError
from reid_ray.io.paths import Location

LISTS = {"visible": "visible", "infrared": "thermal"}
"""Modality → its name in the lists; its position is the camera."""

NESTED = (".", "RegDB")


def scan(config: DataConfig) -> Scan:
    """Read the split `config.trial` of RegDB: 206 people with 2,060 + 2,060 images to train, as many to test.

    The visible test images are query and the thermal ones gallery; `evaluate_regdb` searches in both directions. One
    model is trained for each trial, and papers report means over ten. Camera 0 is visible, camera 1 thermal.

    The lists number the people of train and of test from 0 each; test pids are shifted past the train pids here, so
    that one pid is one person in the whole table. Across trials a pid means nothing.

    Raises:
        DataError: no lists below `config.root`, or a line that is not `file label`.
    """
    root = find_root(existing_root(config.root, "the folder of RegDB, with Visible, Thermal and idx in it"))
    lists = {
        (split, modality): root / "idx" / f"{split}_{name}_{config.trial}.txt"
        for split in ("train", "test")
        for modality, name in LISTS.items()
    }
    listed = {key: read_file_list(path, dataset="RegDB", number="label") for key, path in lists.items()}
    first_test_pid = 1 + max(
        (label for (split, _), entries in listed.items() if split == "train" for _, label in entries), default=-1
    )
    rows = Rows()
    missing = missing_files(root / file for entries in listed.values() for file, _ in entries)
    for (listed_split, modality), entries in listed.items():
        split = "train" if listed_split == "train" else "query" if modality == "visible" else "gallery"
        for path, label in sorted((root / file, label) for file, label in entries):
            if path in missing:
                where = lists[listed_split, modality]
                rows.refuse("missing", path, f"is in the list {where} but not on disk; unpack the dataset again")
            else:
                pid = label if listed_split == "train" else label + first_test_pid
                rows.add(path, split, pid, list(LISTS).index(modality), modality=modality)
    return Scan(
        rows.table(f"regdb-{config.trial}"),
        problems=tuple(rows.problems),
        needs=(
            ("train", str(lists["train", "visible"])),
            ("query", str(lists["test", "visible"])),
            ("gallery", str(lists["test", "infrared"])),
        ),
    )


def is_root(folder: Location) -> bool:
    """Whether a folder looks like RegDB's."""
    return (folder / "idx" / "train_visible_1.txt").is_file()


def find_root(root: Location) -> Location:
    """`root`, or the dataset's folder in it."""
    for folder in (root / name for name in NESTED):
        if is_root(folder):
            return folder
    raise DataError(
        f"{root} is not RegDB: it should hold Visible, Thermal and idx/train_visible_1.txt; point data.root at it."
    )
