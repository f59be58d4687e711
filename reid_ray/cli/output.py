"""Validation of output files before a command does any work."""

from __future__ import annotations

from pathlib import Path

from reid_ray.errors import DataError
from reid_ray.io.paths import Location, as_path


def png_file(out: str | Location) -> Location:
    """The PNG file given by `--out`.

    Raises:
        DataError: a name with another suffix, or a folder that does not exist.
    """
    file = as_path(out)
    if file.suffix.lower() != ".png":
        raise DataError(f"{out} must end in .png.")
    if isinstance(file, Path) and not file.absolute().parent.is_dir():
        raise DataError(f"The folder of {out} does not exist; create it, or choose another path.")
    return file
