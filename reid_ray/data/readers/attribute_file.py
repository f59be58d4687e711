"""Attributes of people, as annotated for Market-1501 and DukeMTMC-reID (Lin et al., Pattern Recognition 2019).

`market_attribute.mat` and `duke_attribute.mat` hold a struct with `train` and `test`, each of them a struct with a
field per attribute and `image_index`, the pids. Fields are read by name: their order differs between train and test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from reid_ray.data.readers.mat_file import read_mat
from reid_ray.data.readers.scan import Scan
from reid_ray.data.table import ATTRIBUTE_PREFIX, ImageTable, column_type
from reid_ray.errors import DataError
from reid_ray.io.paths import Location
from reid_ray.types import UNKNOWN, IntArray

Age = Literal["adult_or_not", "four_way"]

PARTS = ("train", "test")
PIDS = "image_index"
AGE = "age"
ADULT = 3
"""Market-1501's ages are 1 young, 2 teenager, 3 adult, 4 old."""

WHAT = "market_attribute.mat or duke_attribute.mat"


@dataclass(frozen=True)
class PersonAttributes:
    """Attributes of people, train and test together.

    Attributes:
        names: of M attributes, in alphabetical order.
        values: pid → M values, 0 … n−1, `UNKNOWN` where not known.
    """

    names: tuple[str, ...]
    values: dict[int, tuple[int, ...]]


def read_attributes(file: Location, *, age: Age = "adult_or_not") -> PersonAttributes:
    """Read an attribute file. Stored values 1 … n become 0 … n−1; a stored 0 is not known.

    Market-1501 has 27 attributes of 751 + 750 people, DukeMTMC-reID 23 of 702 + 1,110. All but Market's age are binary.
    Exactly one of the eight and one of the nine colours should be "yes", but 78 and 30 of Market's training people have
    none, and no test person has `downpurple`. Two of Duke's training people have no `top`.

    Args:
        file: the .mat file.
        age: `adult_or_not` makes Market's age binary: 1 for adult and old. `four_way` keeps its four values.

    Raises:
        DataError: not an attribute file: parts or pids are missing, attributes differ between the parts, a field does
            not have one value per person, or a person is in both parts.
    """
    struct = read_mat(file, what=WHAT)
    parts = [(name, _fields(file, name, getattr(struct, name, None))) for name in PARTS]
    names = sorted(parts[0][1].keys() - {PIDS})
    values: dict[int, tuple[int, ...]] = {}
    for part, fields in parts:
        if sorted(fields.keys() - {PIDS}) != names:
            differing = ", ".join(sorted(set(names) ^ (fields.keys() - {PIDS})))
            raise DataError(f"{file}: train and test have different attributes ({differing}); it should be {WHAT}.")
        try:
            pids = [int(pid) for pid in fields[PIDS]]
            columns = [_values(fields[name], binary_age=name == AGE and age == "adult_or_not") for name in names]
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{file}: {part} has a value that is not a number ({error}); it should be {WHAT}."
            ) from error
        twice = [pid for pid in pids if pid in values]
        if twice or len(set(pids)) != len(pids):
            raise DataError(f"{file}: {part} has person {(twice or pids)[0]} twice; it should be {WHAT}.")
        values.update(zip(pids, zip(*columns, strict=True), strict=True))
    return PersonAttributes(tuple(names), values)


def add_attributes(found: Scan, file: Location, *, age: Age = "adult_or_not") -> Scan:
    """A scan whose table has a column `attr_NAME` for each attribute of `file`.

    Images of people who are not in the file, such as distractors, have `UNKNOWN`; a note counts the training people
    among them.

    Raises:
        DataError: as `read_attributes`; no person of the table is in the file; the table has such a column already.
    """
    attributes = read_attributes(file, age=age)
    table = found.table
    pids, rows = np.unique(table.pids, return_inverse=True)
    absent = (UNKNOWN,) * len(attributes.names)
    per_person = np.array([attributes.values.get(pid, absent) for pid in pids.tolist()], dtype=np.int8)
    if not any(pid in attributes.values for pid in pids.tolist()):
        raise DataError(f"{file} has the attributes of none of the people of {table.name}; set data.attributes=null.")
    arrow = table.arrow
    for name, values in zip(attributes.names, per_person.T, strict=True):
        column = ATTRIBUTE_PREFIX + name
        if column in arrow.column_names:
            raise DataError(
                f"{table.name} has a column '{column}' already; set data.attributes=null, or drop the column."
            )
        arrow = arrow.append_column(column, pa.array(values[rows], column_type(column)))
    return replace(found, table=ImageTable(arrow, table.name), notes=(*found.notes, *_note(table, attributes, file)))


def _fields(file: Location, part: str, struct: Any) -> dict[str, list[Any]]:
    """Field → values, one per person."""
    names = getattr(struct, "_fieldnames", ())
    if PIDS not in names:
        raise DataError(f"{file} has no {part}.{PIDS}, the people's ids; it should be {WHAT}.")
    fields = {name: np.atleast_1d(getattr(struct, name)).tolist() for name in names}
    for name, values in fields.items():
        if len(values) != len(fields[PIDS]):
            raise DataError(
                f"{file}: {part}.{name} has {len(values)} values for {len(fields[PIDS])} people; it should be {WHAT}."
            )
    return fields


def _values(stored: list[Any], *, binary_age: bool) -> list[int]:
    """Values from 0; a stored 0 becomes `UNKNOWN`."""
    values = [max(int(value), 0) for value in stored]
    if binary_age:
        return [int(value >= ADULT) if value else UNKNOWN for value in values]
    return [value - 1 if value else UNKNOWN for value in values]


def _note(table: ImageTable, attributes: PersonAttributes, file: Location) -> tuple[str, ...]:
    trained: IntArray = np.unique(table.split("train").pids)
    unknown = [pid for pid in trained.tolist() if pid != UNKNOWN and pid not in attributes.values]
    return (f"{len(unknown)} of {len(trained)} people in train have no attributes in {file}",) if unknown else ()
