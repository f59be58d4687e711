"""Tell the layout of a folder or file by what is in it."""

from __future__ import annotations

from reid_ray.config.data import Layout
from reid_ray.data.pack import MANIFEST
from reid_ray.data.readers import cuhk03_np, dukemtmc, market1501, msmt17
from reid_ray.data.readers.bounding_boxes import TRAIN_FOLDER, FileNames
from reid_ray.data.readers.scan import image_files
from reid_ray.errors import DataError
from reid_ray.locations import Location

FILE_LAYOUTS: dict[str, Layout] = {".csv": "csv", ".parquet": "parquet"}
BOX_LAYOUTS: dict[Layout, FileNames] = {
    "market1501": market1501.NAMES,
    "dukemtmc": dukemtmc.NAMES,
    "cuhk03-np": cuhk03_np.NAMES,
}
BOX_ROOTS = tuple(dict.fromkeys((*market1501.FOLDERS, *dukemtmc.FOLDERS)))


def detect_layout(path: Location) -> Layout:
    """The layout of `path`; a folder that is nothing else is a `folder` of crops.

    Raises:
        DataError: nothing is there; a file that is neither CSV nor Parquet; box folders with file names of no
        layout.
    """
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise DataError(f"There is no file or folder {path}; give the dataset's folder, or a CSV or Parquet file.")
    if (path / MANIFEST).is_file():
        return "packed"
    if msmt17.find_copies(path):
        return "msmt17"
    if any((path / folder / TRAIN_FOLDER).is_dir() for folder in cuhk03_np.FOLDERS):
        return "cuhk03-np"
    for folder in BOX_ROOTS:
        if (path / folder / TRAIN_FOLDER).is_dir():
            return _of_boxes(path / folder / TRAIN_FOLDER)
    return "folder"


def _of_file(path: Location) -> Layout:
    if path.suffix.lower() not in FILE_LAYOUTS:
        raise DataError(f"{path} is neither a folder nor a .csv or .parquet file; give one of these.")
    return FILE_LAYOUTS[path.suffix.lower()]


def _of_boxes(train: Location) -> Layout:
    """By the first file name that fits a layout; the others may be misnamed."""
    for file in image_files(train):
        for layout, names in BOX_LAYOUTS.items():
            if names.parse(file.name):
                return layout
    raise DataError(f"The file names in {train} fit no layout that is known; name it with --layout.")
