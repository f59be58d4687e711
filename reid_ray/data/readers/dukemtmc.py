"""The DukeMTMC-reID layout: 8 cameras, `0001_c2_f0046182.jpg` = pid 1, camera 2.

The dataset was withdrawn by its authors. This module reads existing copies and other data in the same layout; it
neither downloads the dataset nor links to it.
"""

from __future__ import annotations

import re

from reid_ray.config import DataConfig
from reid_ray.data.readers.bounding_boxes import FileNames, find_root, scan_bounding_boxes
from reid_ray.data.readers.scan import Scan, existing_root

NAMES = FileNames(re.compile(r"(?P<pid>-1|\d{1,9})_c(?P<camera>[1-9]\d{0,8})_f\d+"), "0001_c2_f0046182.jpg")
FOLDERS = (
    ".",
    "DukeMTMC-reID",
)


def scan(config: DataConfig) -> Scan:
    """Read the three folders; a complete copy has 16,522 train, 2,228 query and 17,661 gallery images."""
    root = existing_root(
        config.root,
        "a folder in the DukeMTMC-reID layout, with bounding_box_train, query and bounding_box_test in it",
    )
    return scan_bounding_boxes(find_root(root, FOLDERS, "in the DukeMTMC-reID layout"), NAMES, "dukemtmc")
