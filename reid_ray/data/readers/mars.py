"""MARS (Zheng et al., ECCV 2016): tracklets of people by 6 cameras, in the official lists.

`bbox_train/0001/0001C1T0002F003.jpg` is pid 1, camera 1, tracklet 2, frame 3. `info/` has the file names of train and
test, one per line; the tracklets as ranges of these lines; and the numbers of the query tracklets.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from reid_ray.config import DataConfig
from reid_ray.data.readers.bounding_boxes import JUNK_PID
from reid_ray.data.readers.mat_file import read_mat
from reid_ray.data.readers.scan import Rows, Scan, existing_root, missing_files
from reid_ray.errors import DataError
from reid_ray.io.paths import Location

FOLDERS = (".", "MARS", "mars")
NAMES = {"train": "train_name.txt", "test": "test_name.txt"}
TRACKS = {"train": "tracks_train_info.mat", "test": "tracks_test_info.mat"}
QUERIES = "query_IDX.mat"
_NAME = re.compile(r"(?P<pid>\d+|00-1)C(?P<camera>\d)T\d+F\d+\.jpg")


class Tracklet(NamedTuple):
    """A tracklet of the official lists.

    Attributes:
        number: in the table: train tracklets from 0, test tracklets after them.
        names: its file names, in the order of frames.
        pid: 0 for a distractor, −1 for junk.
        camid: from 0.
    """

    number: int
    names: list[str]
    pid: int
    camid: int


def scan(config: DataConfig) -> Scan:
    """Read MARS: 8,298 train tracklets of 625 people (509,914 images), 12,180 test tracklets (681,089 images).

    1,980 of the test tracklets are queries. With `config.queries_in_gallery`, the gallery contains all test tracklets,
    as in the official evaluation; each image of a query then has two rows. Distractors (pid 0) stay in the gallery.
    Junk tracklets (pid −1, "00-1" in file names) are dropped, with a note. Frames are in order, train tracklets first.
    """
    root = existing_root(config.root, "the folder of MARS, with bbox_train, bbox_test and info in it")
    found = find_copy(root)
    if found is None:
        looked = ", ".join(str(root / folder / "info" / TRACKS["train"]) for folder in FOLDERS)
        raise DataError(f"{root} is not MARS: there is no {looked}; point data.root at it.")
    train = _tracklets(found, "train", first_number=0)
    test = _tracklets(found, "test", first_number=len(train))
    queries = _query_rows(found, len(test))
    query = [test[i] for i in queries]
    left_out = set() if config.queries_in_gallery else set(queries)
    gallery = [tracklet for i, tracklet in enumerate(test) if i not in left_out]
    junk = [tracklet for tracklet in test if tracklet.pid == JUNK_PID]
    rows = Rows()
    for split, folder, tracklets in (("train", "train", train), ("query", "test", query), ("gallery", "test", gallery)):
        _add(rows, found / f"bbox_{folder}", split, tracklets)
    n_images = sum(len(tracklet.names) for tracklet in junk)
    return Scan(
        rows.table("mars"),
        problems=tuple(rows.problems),
        folders=tuple(found / f"bbox_{part}" for part in NAMES),
        needs=tuple((split, str(found / "info")) for split in ("train", "query", "gallery")),
        notes=(f"{len(junk)} junk tracklets (pid -1, {n_images} images) left out",) if junk else (),
    )


def find_copy(root: Location) -> Location | None:
    """The folder with the official lists, `root` itself or one below it."""
    return next((root / folder for folder in FOLDERS if (root / folder / "info" / TRACKS["train"]).is_file()), None)


def _tracklets(root: Location, part: str, *, first_number: int) -> list[Tracklet]:
    names_file, tracks_file = root / "info" / NAMES[part], root / "info" / TRACKS[part]
    try:
        names = names_file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"Cannot read {names_file} ({error}); it should list the images of {part}, one a line."
        ) from error
    tracks = np.atleast_2d(read_mat(tracks_file, what="MARS's list of tracklets"))
    if tracks.ndim != 2 or tracks.shape[1] != 4 or tracks.dtype.kind not in "iuf":
        raise DataError(
            f"{tracks_file} has shape {list(tracks.shape)}; it should have first, last, pid, camera of each tracklet."
        )
    tracklets = []
    for row, (first, last, pid, camera) in enumerate(tracks.astype(np.int64).tolist()):
        if not 1 <= first <= last <= len(names):
            raise DataError(
                f"{tracks_file}, row {row + 1}: images {first} to {last}, but {names_file.name} has {len(names)}; take "
                f"both from the same copy of MARS."
            )
        tracklets.append(Tracklet(first_number + row, names[first - 1 : last], pid, camera - 1))
    return tracklets


def _query_rows(root: Location, n_test: int) -> list[int]:
    """Rows, from 0, of the test tracklets that are queries."""
    file = root / "info" / QUERIES
    numbers = np.atleast_1d(read_mat(file, what="MARS's list of queries")).ravel().tolist()
    for number in numbers:
        if not 1 <= number <= n_test:
            raise DataError(
                f"{file}: query {number}, but there are {n_test} test tracklets; take both from the same copy."
            )
    return [int(number) - 1 for number in numbers]


def _add(rows: Rows, folder: Location, split: str, tracklets: list[Tracklet]) -> None:
    """Add the images of tracklets that are not junk."""
    kept = [tracklet for tracklet in tracklets if tracklet.pid != JUNK_PID]
    paths = {name: folder / name[:4] / name for tracklet in kept for name in tracklet.names}
    missing = missing_files(paths.values())
    for number, names, pid, camid in kept:
        for name in names:
            path, match = paths[name], _NAME.fullmatch(name)
            if match is None or (int(match["pid"]), int(match["camera"]) - 1) != (pid, camid):
                rows.refuse(
                    "misnamed",
                    path,
                    f"is in a tracklet of pid {pid}, camera {camid + 1}, but its name says another; names look like "
                    f"0001C1T0002F003.jpg",
                )
            elif path in missing:
                rows.refuse("missing", path, f"is in a list of the {split} split but not on disk; copy MARS again")
            else:
                rows.add(path, split, pid, camid, tracklet=number)
