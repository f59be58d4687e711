"""A Parquet file of images: `path` or embedded images, and optionally the other columns of `ImageTable`."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from reid_ray.config import DataConfig
from reid_ray.data.embedded_images import COLUMN, EmbeddedImages, has_embedded_images, key_of
from reid_ray.data.readers.listed import Listing, column_of, listing_file, scan_listing
from reid_ray.data.readers.scan import Scan
from reid_ray.errors import DataError
from reid_ray.io.paths import Location, as_readable


def scan(config: DataConfig) -> Scan:
    """Read the Parquet file `config.root`; see `scan_listing` for the columns. Messages count rows from 0.

    A column `image` of {bytes, path}, as `datasets` writes it, holds the images themselves; a row's path is then
    `row-NUMBER`.
    """
    listing = _read(listing_file(config.root, "a Parquet file with a column 'path' or 'image'"))
    found = scan_listing(listing)
    return found if listing.keys is None else replace(found, images=EmbeddedImages(str(listing.file)))


def _read(file: Location) -> Listing:
    try:
        content = as_readable(file)
        schema = pq.read_schema(content)
        embedded = has_embedded_images(schema)
        wanted = [name for name in schema.names if name not in (COLUMN, "path")] if embedded else None
        table = pq.read_table(content, columns=wanted)  # the images stay in the file
        table.validate(full=True)  # Arrow does not check that text is UTF-8
        names = table.column_names
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"Cannot read {file} as Parquet: {reason}; write it again.") from error
    read = [name for name in dict.fromkeys(names) if column_of(name) is not None]
    for name in read:
        if names.count(name) > 1:
            raise DataError(f"{file} has the column '{name}' twice; keep one.")
    columns = {name: table[name].to_pylist() if name in read else () for name in dict.fromkeys(names)}
    keys = [key_of(row) for row in range(table.num_rows)] if embedded else None
    return Listing(file, columns, lambda row: f"row {row}", keys=keys)
