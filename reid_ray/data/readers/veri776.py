"""VeRi-776 (Liu et al., ICME 2016): vehicles at 20 cameras, `0001_c001_00016450_0.jpg` = vehicle 1, camera 1."""

from __future__ import annotations

import re

from reid_ray.config import DataConfig
from reid_ray.data.readers.bounding_boxes import FileNames, find_root, scan_bounding_boxes
from reid_ray.data.readers.scan import Scan, existing_root

NAMES = FileNames(re.compile(r"(?P<pid>\d{1,9})_c(?P<camera>\d{0,8}[1-9]\d{0,8})_\d+"), "0001_c001_00016450_0.jpg")
FOLDERS = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
ROOTS = (".", "VeRi", "VeRi-776", "veri")


def scan(config: DataConfig) -> Scan:
    """Read the three folders; a complete copy has 37,778 train, 1,678 query and 11,579 gallery images of 776 vehicles.

    The lists and the XML files of colours and types next to the folders are not read.
    """
    root = existing_root(config.root, "the folder of VeRi-776, with image_train, image_query and image_test in it")
    found = find_root(root, ROOTS, "VeRi-776", FOLDERS["train"])
    return scan_bounding_boxes(found, NAMES, "veri776", FOLDERS)
