"""MATLAB files, which several datasets use for their lists."""

from __future__ import annotations

from typing import Any

from reid_ray.errors import DataError
from reid_ray.io.paths import Location, as_readable


def read_mat(file: Location, *, what: str) -> Any:
    """The only variable of a MATLAB file, without axes of length 1; structs have their fields as attributes.

    Args:
        file: a .mat file before version 7.3.
        what: description of the expected file, for messages.

    Raises:
        DataError: there is no such file, it is not a MATLAB file, or it does not have exactly one variable.
    """
    import scipy.io  # slow to import, and needed for these lists only

    if not file.is_file():
        raise DataError(f"There is no file {file}; it should be {what}.")
    try:
        content = scipy.io.loadmat(as_readable(file), squeeze_me=True, struct_as_record=False)
    except Exception as error:  # on other kinds of file the parser raises arbitrary exceptions
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"Cannot read {file} as a MATLAB file ({reason}); it should be {what}.") from error
    variables = [name for name in content if not name.startswith("__")]
    if len(variables) != 1:
        raise DataError(f"{file} has {len(variables)} variables; it should be {what}, with one.")
    return content[variables[0]]
