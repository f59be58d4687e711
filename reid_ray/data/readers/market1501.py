"""Market-1501 (Zheng et al., ICCV 2015): 6 cameras, `0002_c1s1_000451_03.jpg` = pid 2, camera 1.

The rest of the name is the video sequence (1), the frame (451) and the number of the box in the frame (03).
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

from reid_ray.config import DataConfig
from reid_ray.data.readers.bounding_boxes import FileNames, find_root, scan_bounding_boxes
from reid_ray.data.readers.scan import Scan, existing_root
from reid_ray.data.readers.tracklet_column import with_tracklets
from reid_ray.data.table import ImageTable

NAMES = FileNames(re.compile(r"(?P<pid>-1|\d{1,9})_c(?P<camera>[1-9]\d{0,8})s\d+_"), "0002_c1s1_000451_03.jpg")
FOLDERS = (
    ".",
    "Market-1501-v15.09.15",
)
DISTRACTOR_PID = 0
_FRAME = re.compile(r"(?P<walk>\d+_c\d+s\d+)_(?P<frame>\d+)_(?P<box>\d+)")


def scan(config: DataConfig) -> Scan:
    """Read Market-1501: 12,936 train, 3,368 query and 15,913 gallery images.

    The 3,819 junk images (pid −1: bad boxes of known people) are **dropped** here, as the protocol removes
    them from every ranking. The 2,798 distractors (pid 0: no person of the queries) stay: no query has pid 0, so
    they are never a match.

    With `config.tracklets`, the images of one person, camera and sequence in a split are a tracklet. Images of unknown
    people are in none: distractors share a pid without being one person.
    """
    root = existing_root(
        config.root, "the folder of Market-1501, with bounding_box_train, query and bounding_box_test in it"
    )
    found = scan_bounding_boxes(find_root(root, FOLDERS, "Market-1501"), NAMES, "market1501")
    return replace(found, table=_with_walks(found.table)) if config.tracklets else found


def _with_walks(table: ImageTable) -> ImageTable:
    names = [PurePosixPath(path).name for path in table.paths]
    walks: list[str | None] = []
    frames: list[tuple[int, int]] = []
    for name, pid in zip(names, table.pids.tolist(), strict=True):
        match = _FRAME.match(name)
        walks.append(match["walk"] if match and pid > DISTRACTOR_PID else None)
        frames.append((int(match["frame"]), int(match["box"])) if match else (0, 0))
    return with_tracklets(table, walks, frames)
