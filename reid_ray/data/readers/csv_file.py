"""A CSV file of images: `path`, and optionally the other columns of `ImageTable`."""

from __future__ import annotations

import csv
import io

from reid_ray.config import DataConfig
from reid_ray.data.readers.listed import Listing, listing_file, scan_listing
from reid_ray.data.readers.scan import Scan
from reid_ray.errors import DataError
from reid_ray.locations import Location


def scan(config: DataConfig) -> Scan:
    """Read the CSV file `config.root`; see `scan_listing` for the columns."""
    return scan_listing(_read(listing_file(config.root, "a CSV file with a column 'path'")))


def _read(file: Location) -> Listing:
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with io.TextIOWrapper(file.open("rb"), encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            for row in reader:
                if row and len(row) != len(header):
                    raise DataError(
                        f"{file}, line {reader.line_num}: {len(row)} cells, but the header has {len(header)}."
                    )
                if row:
                    rows.append(row)
                    lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error
    except (OSError, csv.Error) as error:
        raise DataError(f"Cannot read {file} as CSV: {error}; check the quotes and the file.") from error
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{file} has the column '{twice}' twice; keep one.")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    return Listing(file, columns, lambda row: f"line {lines[row]}")
