"""A CSV file of images with any common separator, encoding, spacing and capitalisation."""

from __future__ import annotations

import codecs
import csv
import io

from reid_ray.config import DataConfig
from reid_ray.data.readers.listed import Listing, column_of, listing_file, scan_listing
from reid_ray.data.readers.scan import Scan
from reid_ray.errors import DataError
from reid_ray.io.paths import Location

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}

_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark → encoding; spreadsheets write UTF-16."""


def scan(config: DataConfig) -> Scan:
    """Read the CSV file `config.root`; see `scan_listing` for the columns."""
    return scan_listing(_read(listing_file(config.root, "a CSV file with a column 'path'")))


def _read(file: Location) -> Listing:
    text = _text(file)
    if text.count('"') % 2:  # the csv module's strict mode would find it, but rejects spaces after quotes
        raise DataError(f"Cannot read {file} as CSV: a quote is not closed; check the quotes.")
    header_line = text.lstrip("\r\n").splitlines()[0] if text.strip() else ""
    separator = _separator(header_line)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        header = [name.strip() for name in next((row for row in reader if row), [])]
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells) and len(cells) != len(header):
                raise DataError(
                    f"{file}, line {reader.line_num}: {len(cells)} cells, but the header has {len(header)} (separated "
                    f"by a {SEPARATORS[separator]})."
                )
            if any(cells):
                rows.append(cells)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"Cannot read {file} as CSV: {error}; check the file.") from error
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"{file} has the column '{twice}' twice; keep one.")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    return Listing(file, columns, lambda row: f"line {lines[row]}", note=f"separated by a {SEPARATORS[separator]}")


def _text(file: Location) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {file}: {error.strerror or error}.") from error
    encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8")
    start = data[:100]
    if encoding == "utf-8" and 3 * start.count(0) > len(start):  # UTF-16 without a mark: every second byte is zero
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not {encoding.upper().removesuffix('-SIG')} text ({error.reason} at byte {error.start}); save "
            f"it as UTF-8."
        ) from error


def _separator(header: str) -> str:
    """The separator that gives the header the most known columns; in a tie, the most columns."""

    def score(separator: str) -> tuple[int, int]:
        names = header.split(separator)
        return sum(column_of(name.strip().strip('"')) is not None for name in names), len(names)

    return max(SEPARATORS, key=score)
