"""CUHK03 in the new protocol (Zhong et al., CVPR 2017): 767 train pids, 2 cameras, detected or labelled
boxes.

`0001_c1_1.png` = pid 1, camera 1.
"""

from __future__ import annotations

import re

from reid_ray.config import DataConfig
from reid_ray.data.readers.bounding_boxes import FileNames, find_root, scan_bounding_boxes
from reid_ray.data.readers.scan import Scan, existing_root

NAMES = FileNames(re.compile(r"(?P<pid>\d{1,9})_c(?P<camera>[1-9]\d{0,8})_\d+\."), "0001_c1_1.png")
BOX_FOLDERS = {True: "detected", False: "labeled"}
FOLDERS = tuple(f"{outer}{boxes}" for outer in ("", "cuhk03-np/") for boxes in BOX_FOLDERS.values())


def scan(config: DataConfig) -> Scan:
    """Read the detected or the labelled boxes, as `config.detected` selects; the table's name shows which."""
    root = existing_root(config.root, "the folder of CUHK03-np, with detected/ and labeled/ in it")
    boxes = BOX_FOLDERS[config.detected]
    folders = [folder for folder in FOLDERS if folder.endswith(boxes)]
    folder = find_root(root, folders, f"CUHK03-np with {boxes} boxes")
    return scan_bounding_boxes(folder, NAMES, f"cuhk03-np-{boxes}")
