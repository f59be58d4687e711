"""Market-1501 (Zheng et al., ICCV 2015): 6 cameras, `0002_c1s1_000451_03.jpg` = pid 2, camera 1."""

from __future__ import annotations

import re

from reid_ray.config import DataConfig
from reid_ray.data.readers.bounding_boxes import FileNames, find_root, scan_bounding_boxes
from reid_ray.data.readers.scan import Scan, existing_root

NAMES = FileNames(re.compile(r"(?P<pid>-1|\d+)_c(?P<camera>[1-9]\d*)s\d+_"), "0002_c1s1_000451_03.jpg")
FOLDERS = (
    ".",
    "Market-1501-v15.09.15",
)


def scan(config: DataConfig) -> Scan:
    """Read Market-1501: 12,936 train, 3,368 query and 15,913 gallery images.

    The 3,819 junk images (pid −1: bad boxes of known people) are **dropped** here, as the protocol removes
    them from every ranking. The 2,798 distractors (pid 0: nobody of the queries) stay: no query has pid 0, so
    they are never a match.
    """
    root = existing_root(
        config.root, "the folder of Market-1501, with bounding_box_train, query and bounding_box_test in it"
    )
    return scan_bounding_boxes(find_root(root, FOLDERS, "Market-1501"), NAMES, "market1501")
