"""A Parquet file of images: `path`, and optionally the other columns of `ImageTable`."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from reid_ray.config import DataConfig
from reid_ray.data.readers.listed import Listing, column_of, listing_file, scan_listing
from reid_ray.data.readers.scan import Scan
from reid_ray.errors import DataError
from reid_ray.io.paths import Location, as_readable


def scan(config: DataConfig) -> Scan:
    """Read the Parquet file `config.root`; see `scan_listing` for the columns. Messages count rows from 0."""
    return scan_listing(_read(listing_file(config.root, "a Parquet file with a column 'path'")))


def _read(file: Location) -> Listing:
    try:
        table = pq.read_table(as_readable(file))
        table.validate(full=True)  # Arrow takes text for UTF-8 without looking
        names = table.column_names
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"Cannot read {file} as Parquet: {reason}; write it again.") from error
    read = [name for name in dict.fromkeys(names) if column_of(name) is not None]
    for name in read:
        if names.count(name) > 1:
            raise DataError(f"{file} has the column '{name}' twice; keep one.")
    columns = {name: table[name].to_pylist() if name in read else () for name in dict.fromkeys(names)}
    return Listing(file, columns, lambda row: f"row {row}")
