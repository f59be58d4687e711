"""Attribute files in the form of Market-1501's and DukeMTMC's: read by name, unknown where nothing is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from reid_ray.config import DataConfig
from reid_ray.data import read_dataset
from reid_ray.data.readers import scan_dataset
from reid_ray.data.readers.attribute_file import read_attributes
from reid_ray.errors import DataError


def write_attributes(
    file: Path, train: dict[str, Any], test: dict[str, Any], *, train_pids: list[str], test_pids: list[str]
) -> Path:
    """A file in the official form: structs, row vectors, pids as strings."""

    def part(fields: dict[str, Any], pids: list[str]) -> dict[str, Any]:
        cells = np.empty((1, len(pids)), dtype=object)
        cells[0] = pids
        values = {name: np.array([column], dtype=np.uint8) for name, column in fields.items()}
        return {**values, "image_index": cells}

    struct = {"test": part(test, test_pids), "train": part(train, train_pids)}
    scipy.io.savemat(file, {"market_attribute": struct})
    return file


@pytest.fixture
def attribute_file(tmp_path: Path) -> Path:
    """People 2 and 7 in train, 3 in test; the fields of test are in another order."""
    return write_attributes(
        tmp_path / "market_attribute.mat",
        {"hat": [1, 2], "age": [2, 3], "upblack": [0, 2], "gender": [2, 1]},
        {"gender": [2], "upblack": [1], "hat": [1], "age": [4]},
        train_pids=["0002", "0007"],
        test_pids=["0003"],
    )


def test_fields_are_read_by_name(attribute_file: Path):
    found = read_attributes(attribute_file, age="four_way")
    assert found.names == ("age", "gender", "hat", "upblack")
    assert found.values == {2: (1, 1, 0, -1), 7: (2, 0, 1, 1), 3: (3, 1, 0, 0)}


def test_age_as_one_binary_attribute(tmp_path: Path):
    file = write_attributes(
        tmp_path / "a.mat",
        {"age": [1, 2, 3, 4, 0]},
        {"age": [3]},
        train_pids=["1", "2", "3", "4", "5"],
        test_pids=["6"],
    )
    assert read_attributes(file).values == {1: (0,), 2: (0,), 3: (1,), 4: (1,), 5: (-1,), 6: (1,)}
    assert read_attributes(file, age="four_way").values == {1: (0,), 2: (1,), 3: (2,), 4: (3,), 5: (-1,), 6: (2,)}


def test_columns_of_market1501(market: Path, attribute_file: Path):
    config = DataConfig(layout="market1501", root=str(market), attributes=str(attribute_file))
    table = read_dataset(config).table
    assert table.attribute_names == ("age", "gender", "hat", "upblack")
    known = {2: [0, 1, 0, -1], 7: [1, 0, 1, 1], 3: [1, 1, 0, 0], 0: [-1] * 4}
    assert table.attributes.tolist() == [known[pid] for pid in table.pids.tolist()]
    assert set(table.pids.tolist()) == set(known)
    plain = read_dataset(DataConfig(layout="market1501", root=str(market))).table
    assert table.paths == plain.paths
    four = read_dataset(config.model_copy(update={"age": "four_way"})).table
    assert four.column("attributes")[:, 0].tolist() == [1, 1, 1, 2, 3, -1, 3]


def test_training_people_without_attributes_are_noted(market: Path, tmp_path: Path):
    file = write_attributes(tmp_path / "a.mat", {"hat": [1]}, {"hat": [2]}, train_pids=["0007"], test_pids=["0003"])
    found = scan_dataset(DataConfig(layout="market1501", root=str(market), attributes=str(file)))
    assert f"1 of 2 people in train have no attributes in {file}" in found.notes
    assert found.table.split("train").attributes.ravel().tolist() == [-1, -1, -1, 0]


def test_a_file_of_other_people_is_refused(market: Path, tmp_path: Path):
    file = write_attributes(tmp_path / "a.mat", {"hat": [1]}, {"hat": [2]}, train_pids=["0100"], test_pids=["0200"])
    with pytest.raises(DataError, match=r"a\.mat has the attributes of none of the people of market1501"):
        read_dataset(DataConfig(layout="market1501", root=str(market), attributes=str(file)))


def test_a_list_that_has_the_column_already(attribute_file: Path, write_image, tmp_path: Path):
    write_image(tmp_path / "a.jpg")
    listing = tmp_path / "list.csv"
    listing.write_text("path,pid,attr_hat\na.jpg,2,0\n")
    with pytest.raises(DataError, match="list has a column 'attr_hat' already"):
        read_dataset(DataConfig(layout="csv", root=str(listing), attributes=str(attribute_file)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": np.ones(3)}, r"has no train\.image_index"),
        ({"x": {"train": {"hat": [1], "image_index": ["0001"]}}}, r"has no test\.image_index"),
        ({"x": {"train": {"hat": [1]}, "test": {"hat": [1]}}}, r"has no train\.image_index"),
        (
            {
                "x": {
                    "train": {"hat": [1], "image_index": ["0001"]},
                    "test": {"bag": [1], "image_index": ["0002"]},
                }
            },
            r"train and test have different attributes \(bag, hat\)",
        ),
        (
            {
                "x": {
                    "train": {"hat": [1, 2], "image_index": ["0001"]},
                    "test": {"hat": [1], "image_index": ["0002"]},
                }
            },
            r"train\.hat has 2 values for 1 people",
        ),
        (
            {
                "x": {
                    "train": {"hat": [1], "image_index": ["0001"]},
                    "test": {"hat": [1], "image_index": ["0001"]},
                }
            },
            "test has person 1 twice",
        ),
        (
            {
                "x": {
                    "train": {"hat": [1], "image_index": ["ann"]},
                    "test": {"hat": [1], "image_index": ["0001"]},
                }
            },
            "train has a value that is not a number",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: dict[str, Any], message: str):
    scipy.io.savemat(tmp_path / "other.mat", content)
    with pytest.raises(DataError, match=rf"other\.mat.*{message}"):
        read_attributes(tmp_path / "other.mat")


def test_a_missing_file(market: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"There is no file .*no\.mat; it should be market_attribute\.mat"):
        read_dataset(DataConfig(layout="market1501", root=str(market), attributes=str(tmp_path / "no.mat")))
    (tmp_path / "text.mat").write_text("not a MATLAB file, but long enough to hold a header of 128 bytes" * 4)
    with pytest.raises(DataError, match=r"Cannot read .*text\.mat as a MATLAB file"):
        read_attributes(tmp_path / "text.mat")
