"""The layout introduced by Market-1501: three folders of crops, pid and camera in the file name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reid_ray.data.readers.scan import Rows, Scan, image_files
from reid_ray.errors import DataError
from reid_ray.io.paths import Location

TRAIN_FOLDER = "bounding_box_train"
FOLDERS = {"train": TRAIN_FOLDER, "query": "query", "gallery": "bounding_box_test"}
JUNK_PID = -1


@dataclass(frozen=True)
class FileNames:
    """File naming scheme of a dataset.

    Attributes:
        pattern: matched at the start of the file name; groups `pid` and `camera` (counted from 1), of few enough digits
            to fit int64.
        example: a name that fits, for messages.
    """

    pattern: re.Pattern[str]
    example: str

    def parse(self, name: str) -> tuple[int, int] | None:
        """(pid, camid from 0), or None where the name does not fit."""
        match = self.pattern.match(name)
        return (int(match["pid"]), int(match["camera"]) - 1) if match else None


def scan_bounding_boxes(
    root: Location, names: FileNames, table_name: str, folders: Mapping[str, str] = FOLDERS
) -> Scan:
    """Read the folders of the three splits below `root`; junk (pid −1) is left out."""
    rows = Rows()
    n_junk = 0
    for split, folder in folders.items():
        for path in image_files(root / folder):
            parsed = names.parse(path.name)
            if parsed is None:
                rows.refuse(
                    "misnamed",
                    path,
                    f"does not follow the naming of {table_name} ({names.example}); rename or remove it",
                )
            elif parsed[0] == JUNK_PID:
                n_junk += 1
            else:
                rows.add(path, split, *parsed)
    return Scan(
        rows.table(table_name),
        problems=tuple(rows.problems),
        folders=tuple(root / folder for folder in folders.values()),
        needs=tuple((split, str(root / folder)) for split, folder in folders.items()),
        notes=(f"{n_junk} junk images (pid -1) left out",) if n_junk else (),
    )


def find_root(root: Location, folders: Sequence[str], what: str, train_folder: str = TRAIN_FOLDER) -> Location:
    """The first of the `folders` in `root` ("." is `root` itself) that holds the folder of the training split."""
    candidates = [root / name for name in folders]
    for candidate in candidates:
        if (candidate / train_folder).is_dir():
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise DataError(f"{root} is not {what}: there is no folder {train_folder} in {looked}; point data.root at it.")
