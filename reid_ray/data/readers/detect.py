"""Detect the layout of a folder or file from its content."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from reid_ray.config.data import Layout
from reid_ray.data.images import printable
from reid_ray.data.packed_images import MANIFEST
from reid_ray.data.readers import cuhk03_np, dukemtmc, market1501, mars, msmt17, regdb, sysu_mm01, veri776
from reid_ray.data.readers.bounding_boxes import TRAIN_FOLDER, FileNames
from reid_ray.data.readers.scan import image_files
from reid_ray.data.readers.suggestion import suggested_expressions
from reid_ray.errors import DataError
from reid_ray.io.paths import Location, relative_path

FILE_LAYOUTS: dict[str, Layout] = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
BOX_LAYOUTS: dict[Layout, FileNames] = {
    "market1501": market1501.NAMES,
    "dukemtmc": dukemtmc.NAMES,
    "cuhk03-np": cuhk03_np.NAMES,
}
BOX_ROOTS = tuple(dict.fromkeys((*market1501.FOLDERS, *dukemtmc.FOLDERS)))


def detect_layout(path: Location) -> Layout:
    """The layout of `path`; any unrecognised folder is a `folder` of crops.

    Raises:
        DataError: nothing is there; a file that is neither CSV nor Parquet; folders of a published dataset whose file
            names follow no published naming.
    """
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise DataError(f"There is no file or folder {path}; give the dataset's folder, or a CSV or Parquet file.")
    if (path / MANIFEST).is_file():
        return "packed"
    if msmt17.find_copies(path):
        return "msmt17"
    if any(sysu_mm01.is_root(path / folder) for folder in sysu_mm01.NESTED):
        return "sysu-mm01"
    if any(regdb.is_root(path / folder) for folder in regdb.NESTED):
        return "regdb"
    if mars.find_copy(path) is not None:
        return "mars"
    if any((path / folder / TRAIN_FOLDER).is_dir() for folder in cuhk03_np.FOLDERS):
        return "cuhk03-np"
    for folder in BOX_ROOTS:
        if (path / folder / TRAIN_FOLDER).is_dir():
            return _of_boxes(path / folder, TRAIN_FOLDER, BOX_LAYOUTS)
    for folder in veri776.ROOTS:
        if (path / folder / veri776.FOLDERS["train"]).is_dir():
            return _of_boxes(path / folder, veri776.FOLDERS["train"], {"veri776": veri776.NAMES})
    return "folder"


def _of_file(path: Location) -> Layout:
    if path.suffix.lower() not in FILE_LAYOUTS:
        raise DataError(f"{path} is neither a folder nor a .csv, .tsv or .parquet file; give one of these.")
    return FILE_LAYOUTS[path.suffix.lower()]


def _of_boxes(root: Location, train_folder: str, layouts: Mapping[Layout, FileNames]) -> Layout:
    """The layout of the first file name that matches one; the others may be misnamed."""
    files = image_files(root / train_folder)
    for file in files:
        for layout, names in layouts.items():
            if names.parse(file.name):
                return layout
    if not files:
        raise DataError(f"There are no images in {root / train_folder}; put them there, or name another folder.")
    inside = [relative_path(file, root / train_folder).as_posix() for file in files]
    rules = "".join(
        f" --{name}-regex {shlex.quote(expression)}" for name, expression in suggested_expressions(inside).items()
    )
    shown = " and ".join(printable(name) for name in dict.fromkeys((inside[0], inside[-1])))
    raise DataError(
        f"The file names in {root / train_folder} follow no published naming ({shown}); say what they mean by "
        f"expressions of your own, as in: reid-ray data check {shlex.quote(str(root))} --layout folder{rules}"
    )
