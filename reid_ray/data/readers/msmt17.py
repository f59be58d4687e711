"""MSMT17 (Wei et al., CVPR 2018): 15 cameras, lists of files, and two versions with incomparable results.

V1 keeps its images in `train/` and `test/`; V2, in which faces are masked, in `mask_train_v2/` and
`mask_test_v2/`. A line of `list_train.txt` is `0000/0000_000_01_0303morning_0015_0.jpg 0`: file, pid; the
name's third field is the camera.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reid_ray.config import DataConfig
from reid_ray.data.readers.file_lists import read_file_list
from reid_ray.data.readers.scan import Rows, Scan, existing_root, missing_files
from reid_ray.errors import DataError
from reid_ray.io.paths import Location

LISTS = {
    "train": ("list_train.txt", "list_val.txt"),
    "query": ("list_query.txt",),
    "gallery": ("list_gallery.txt",),
}
IMAGE_FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
NESTED = (".", "MSMT17_V1", "MSMT17_V2", "MSMT17")
_CAMERA = re.compile(r"\d+_\d+_(?P<camera>\d{1,9})_")


@dataclass(frozen=True)
class Copy:
    """A copy of the dataset on disk: its folder and its version."""

    root: Location
    version: str

    def images(self, split: str) -> Location:
        train, test = IMAGE_FOLDERS[self.version]
        return self.root / (train if split == "train" else test)


def scan(config: DataConfig) -> Scan:
    """Read MSMT17; train is the train and val lists together: 32,621 images, query 11,659, gallery 82,161.

    The version is inferred from the folder names and is part of the table's name, `msmt17-V1` or `msmt17-V2`.
    The lists number the people of train and of test from 0 each; test pids are shifted past the train pids
    here, so that one pid is one person in the whole table.

    Raises:
        DataError: no copy below `config.root`, both versions without a `config.version` to choose one, or another
            version than `config.version`; a list that is missing or has a line that is not `file pid`.
    """
    root = existing_root(config.root, "the folder of MSMT17, with list_train.txt and the image folders in it")
    copy = _choose(root, find_copies(root), config.version)
    listed = {
        split: [row for name in names for row in read_file_list(copy.root / name, dataset="MSMT17", number="pid")]
        for split, names in LISTS.items()
    }
    first_test_pid = 1 + max((pid for _, pid in listed["train"]), default=-1)
    rows = Rows()
    for split, entries in listed.items():
        shift = 0 if split == "train" else first_test_pid
        _add_split(rows, split, [(copy.images(split) / file, pid + shift) for file, pid in entries])
    name = f"msmt17-{copy.version}"
    return Scan(
        rows.table(name),
        problems=tuple(rows.problems),
        folders=(copy.images("train"), copy.images("query")),
        needs=tuple((split, str(copy.root / names[0])) for split, names in LISTS.items()),
    )


def find_copies(root: Location) -> list[Copy]:
    """Every copy of MSMT17 in `root` or in one of its usual sub-folders."""
    return [
        Copy(folder, version)
        for folder in (root / name for name in NESTED)
        if (folder / "list_train.txt").is_file()
        for version, (train, _) in IMAGE_FOLDERS.items()
        if (folder / train).is_dir()
    ]


def _choose(root: Location, copies: list[Copy], version: str | None) -> Copy:
    if not copies:
        raise DataError(
            f"{root} is not MSMT17: it should hold list_train.txt next to train/ and test/ (V1), "
            f"or next to mask_train_v2/ and mask_test_v2/ (V2)."
        )
    fitting = [copy for copy in copies if version in (None, copy.version)]
    if not fitting:
        raise DataError(
            f"{copies[0].root} is MSMT17 {copies[0].version} by its folder names, but data.version is "
            f"{version}; results of the two do not compare, so change data.version or data.root."
        )
    if len({copy.version for copy in fitting}) > 1:
        raise DataError(f"{root} holds MSMT17 V1 and V2; say which with data.version, or point data.root at one.")
    return fitting[0]


def _add_split(rows: Rows, split: str, entries: list[tuple[Location, int]]) -> None:
    missing = missing_files(path for path, _ in entries)
    for path, pid in sorted(entries):
        camera = _CAMERA.match(path.name)
        if path in missing:
            rows.refuse(
                "missing",
                path,
                f"is in a list of the {split} split but not on disk; unpack the dataset again",
            )
        elif camera is None or int(camera["camera"]) < 1:
            rows.refuse(
                "misnamed",
                path,
                "has no camera in the third field of its name (0000_000_01_0303morning_0015_0.jpg)",
            )
        else:
            rows.add(path, split, pid, int(camera["camera"]) - 1)
