"""SYSU-MM01 (Wu et al., ICCV 2017): four visible and two near-infrared cameras, people split by lists of ids.

`cam3/0006/0012.jpg` is image 12 of person 6 by camera 3. Cameras 1, 2 (indoors), 4, 5 (outdoors) are visible; 3 (in the
room of camera 2) and 6 (outdoors) are infrared. A list is one line of ids, separated by commas.
"""

from __future__ import annotations

import re

from reid_ray.config import DataConfig
from reid_ray.data.readers.scan import Rows, Scan, existing_root, image_files
from reid_ray.errors import DataError
from reid_ray.io.paths import Location

CAMERAS = {1: "visible", 2: "visible", 3: "infrared", 4: "visible", 5: "visible", 6: "infrared"}
LISTS = {"train": ("train_id.txt", "val_id.txt"), "test": ("test_id.txt",)}
NESTED = (".", "SYSU-MM01")
_SEPARATOR = re.compile(r"[,\s]+")


def scan(config: DataConfig) -> Scan:
    """Read SYSU-MM01: train is the people of the train and val lists, 296 + 99 = 395, in both modalities.

    Of the 96 people of the test list, all 3,803 infrared images are query and all 6,775 visible ones gallery;
    `evaluate_sysu_mm01` draws its galleries from these. Train has 22,258 visible and 11,909 infrared images. Pids are
    the dataset's. Images of people who are in no list are left out.

    Raises:
        DataError: no lists or no folder of a camera below `config.root`; a list that holds something other than ids;
            a person in both the train (or val) and the test list.
    """
    root = find_root(existing_root(config.root, "the folder of SYSU-MM01, with cam1 to cam6 and exp in it"))
    people = {name: set[int]().union(*(_read_ids(root / "exp" / file) for file in LISTS[name])) for name in LISTS}
    both = people["train"] & people["test"]
    if both:
        raise DataError(f"Person {min(both)} is in the train and in the test list in {root / 'exp'}; repair the lists.")
    rows = Rows()
    n_unlisted = 0
    for camera, modality in CAMERAS.items():
        for path in image_files(root / f"cam{camera}"):
            pid = _number(path.parent.name)
            if pid is None or _number(path.stem) is None:
                rows.refuse("misnamed", path, "does not follow SYSU-MM01's naming (cam1/0006/0012.jpg); remove it")
            elif pid in people["train"]:
                rows.add(path, "train", pid, camera - 1, modality=modality)
            elif pid in people["test"]:
                split = "query" if modality == "infrared" else "gallery"
                rows.add(path, split, pid, camera - 1, modality=modality)
            else:
                n_unlisted += 1
    return Scan(
        rows.table("sysu-mm01"),
        problems=tuple(rows.problems),
        folders=tuple(root / f"cam{camera}" for camera in CAMERAS),
        needs=tuple((split, str(root)) for split in ("train", "query", "gallery")),
        notes=(f"{n_unlisted} images of people in no list left out",) if n_unlisted else (),
    )


def is_root(folder: Location) -> bool:
    """Whether a folder looks like SYSU-MM01's."""
    return (folder / "exp" / "test_id.txt").is_file() and (folder / "cam1").is_dir()


def find_root(root: Location) -> Location:
    """`root`, or the dataset's folder in it."""
    for folder in (root / name for name in NESTED):
        if is_root(folder):
            missing = [f"cam{camera}" for camera in CAMERAS if not (folder / f"cam{camera}").is_dir()]
            if missing:
                raise DataError(f"{folder} has no folder {missing[0]} of SYSU-MM01; unpack the dataset again.")
            return folder
    raise DataError(f"{root} is not SYSU-MM01: it should hold cam1 to cam6 and exp/test_id.txt; point data.root at it.")


def _read_ids(path: Location) -> set[int]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the list {path} of SYSU-MM01 ({error}); unpack the dataset again.") from error
    entries = [entry for entry in _SEPARATOR.split(text) if entry]
    ids = [_number(entry) for entry in entries]
    for entry, number in zip(entries, ids, strict=True):
        if number is None:
            raise DataError(f"The list {path} holds {entry!r}, which is not an id; it should be numbers and commas.")
    return {number for number in ids if number is not None}


def _number(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdigit() else None
