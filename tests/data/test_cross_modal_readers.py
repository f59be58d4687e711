"""SYSU-MM01 and RegDB, read from small copies of their folders, and the ways in which a copy can be wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from cross_modal_layouts import bmp_bytes, write_empty, write_regdb, write_small_sysu
from read_layouts import read

from reid_ray.config import DataConfig
from reid_ray.data import Dataset
from reid_ray.data.readers import detect_layout, scan_dataset
from reid_ray.errors import DataError


def rows(dataset: Dataset, root: Path) -> list[tuple[str, str, int, int, str]]:
    """(split, path below root, pid, camid, modality) of each row."""
    columns = dataset.table.arrow.to_pydict()
    paths = [Path(path).relative_to(root).as_posix() for path in columns["path"]]
    return list(zip(columns["split"], paths, columns["pid"], columns["camid"], columns["modality"], strict=True))


@pytest.mark.parametrize("above", [False, True])
def test_sysu(tmp_path: Path, above: bool) -> None:
    root = write_small_sysu(tmp_path / "SYSU-MM01")
    dataset = read("sysu-mm01", tmp_path if above else root)
    found = rows(dataset, root)
    assert [row for row in found if row[0] == "train"] == [
        ("train", "cam1/0001/0001.jpg", 1, 0, "visible"),
        ("train", "cam1/0001/0002.jpg", 1, 0, "visible"),
        ("train", "cam1/0003/0001.jpg", 3, 0, "visible"),
        ("train", "cam2/0001/0001.jpg", 1, 1, "visible"),
        ("train", "cam3/0001/0001.jpg", 1, 2, "infrared"),
        ("train", "cam3/0002/0001.jpg", 2, 2, "infrared"),
        ("train", "cam4/0002/0001.jpg", 2, 3, "visible"),
        ("train", "cam6/0002/0001.jpg", 2, 5, "infrared"),
    ]
    assert [row for row in found if row[0] == "query"] == [
        ("query", "cam3/0004/0001.jpg", 4, 2, "infrared"),
        ("query", "cam3/0004/0002.jpg", 4, 2, "infrared"),
        ("query", "cam6/0004/0001.jpg", 4, 5, "infrared"),
        ("query", "cam6/0005/0001.jpg", 5, 5, "infrared"),
    ]
    gallery = Counter((pid, camid, modality) for split, _, pid, camid, modality in found if split == "gallery")
    assert gallery == {
        (4, 0, "visible"): 12,
        (4, 1, "visible"): 2,
        (4, 3, "visible"): 1,
        (5, 3, "visible"): 3,
        (5, 4, "visible"): 1,
    }
    assert dataset.table.name == "sysu-mm01"
    assert dataset.images.read(dataset.query.paths[0]).shape == (3, 24, 12)
    assert detect_layout(root) == detect_layout(tmp_path) == "sysu-mm01"
    assert scan_dataset(DataConfig(layout="sysu-mm01", root=str(root))).notes == (
        "1 images of people in no list left out",
    )


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train_id.txt", None, "Cannot read the list .*train_id.txt of SYSU-MM01"),
        ("val_id.txt", "3,four", "val_id.txt holds 'four', which is not an id"),
        ("val_id.txt", "3,-4", "val_id.txt holds '-4', which is not an id"),
        ("val_id.txt", "3,4", "Person 4 is in the train and in the test list"),
        ("train_id.txt", "", None),
        ("test_id.txt", "\n", "The query split is empty"),
    ],
)
def test_wrong_lists_of_sysu(tmp_path: Path, file: str, text: str | None, message: str | None) -> None:
    root = write_small_sysu(tmp_path / "SYSU-MM01")
    if text is None:
        (root / "exp" / file).unlink()
    else:
        (root / "exp" / file).write_text(text)
    if message is None:
        assert set(read("sysu-mm01", root).train.pids.tolist()) == {3}
        return
    with pytest.raises(DataError, match=message):
        read("sysu-mm01", root)


def test_lists_may_have_spaces_and_lines(tmp_path: Path) -> None:
    root = write_small_sysu(tmp_path / "SYSU-MM01")
    before = rows(read("sysu-mm01", root), root)
    (root / "exp" / "train_id.txt").write_text(" 1 ,\n2,\n")
    assert rows(read("sysu-mm01", root), root) == before


@pytest.mark.parametrize("name", ["cam1/0001/holiday.jpg", "cam4/people/0001.jpg", "cam6/0001.jpg"])
def test_a_misnamed_file_of_sysu(tmp_path: Path, name: str) -> None:
    root = write_small_sysu(tmp_path / "SYSU-MM01")
    (root / name).parent.mkdir(exist_ok=True)
    write_empty(root / name)
    with pytest.raises(DataError, match=r"does not follow SYSU-MM01's naming"):
        read("sysu-mm01", root)


def test_a_missing_camera_of_sysu(tmp_path: Path) -> None:
    root = write_small_sysu(tmp_path / "SYSU-MM01")
    (root / "cam5").rename(root / "camera5")
    with pytest.raises(DataError, match="has no folder cam5 of SYSU-MM01"):
        read("sysu-mm01", root)


@pytest.mark.parametrize("layout", ["sysu-mm01", "regdb"])
def test_a_folder_of_something_else(tmp_path: Path, layout: str) -> None:
    with pytest.raises(DataError, match=r"is not (SYSU-MM01|RegDB): it should hold"):
        read(layout, tmp_path)
    with pytest.raises(DataError, match=r"There is no folder .*nowhere; data\.root should be "):
        read(layout, tmp_path / "nowhere")


@pytest.mark.parametrize("above", [False, True])
def test_regdb(tmp_path: Path, above: bool) -> None:
    """In trial 2, people 2, 3 train and 4, 1 test; their labels are 0, 1 both times."""
    root = write_regdb(tmp_path / "RegDB")
    dataset = read("regdb", tmp_path if above else root, trial=2)
    found = rows(dataset, root)
    assert [(split, path.split("/")[:2], pid, camid, modality) for split, path, pid, camid, modality in found[::2]] == [
        ("train", ["Visible", "2"], 0, 0, "visible"),
        ("train", ["Visible", "3"], 1, 0, "visible"),
        ("train", ["Thermal", "2"], 0, 1, "infrared"),
        ("train", ["Thermal", "3"], 1, 1, "infrared"),
        ("query", ["Visible", "1"], 3, 0, "visible"),
        ("query", ["Visible", "4"], 2, 0, "visible"),
        ("gallery", ["Thermal", "1"], 3, 1, "infrared"),
        ("gallery", ["Thermal", "4"], 2, 1, "infrared"),
    ]
    assert len(found) == 16
    assert found[0][1] == "Visible/2/male_front_v_00200_2.bmp"
    assert dataset.table.name == "regdb-2"
    assert detect_layout(root) == detect_layout(tmp_path) == "regdb"


def test_the_trials_of_regdb_have_different_people(tmp_path: Path) -> None:
    root = write_regdb(tmp_path / "RegDB", write=write_empty)
    halves = {
        trial: {Path(path).parent.name for path in read("regdb", root, trial=trial).train.paths} for trial in (1, 2)
    }
    assert halves == {1: {"1", "2"}, 2: {"2", "3"}}


def test_the_counts_of_regdb(tmp_path: Path) -> None:
    root = write_regdb(tmp_path / "RegDB", n_people=412, n_images=10, n_trials=1, write=write_empty)
    dataset = read("regdb", root)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (2 * 2060, 2060, 2060)
    assert Counter(dataset.train.modalities.tolist()) == {0: 2060, 1: 2060}
    assert len(set(dataset.train.pids.tolist())) == len(set(dataset.query.pids.tolist())) == 206
    assert set(dataset.query.pids.tolist()) == set(dataset.gallery.pids.tolist()) == set(range(206, 412))


@pytest.mark.parametrize("entry", ["../../secret.bmp 1", "/etc/secret.bmp 1", "Thermal/../../x.bmp 1"])
def test_a_list_of_regdb_does_not_lead_out_of_its_folder(tmp_path: Path, entry: str) -> None:
    root = write_regdb(tmp_path / "RegDB")
    (root / "idx" / "test_thermal_3.txt").write_text(entry + "\n")
    with pytest.raises(DataError, match=r"test_thermal_3\.txt, line 1: .* leads out of the dataset's folder"):
        read("regdb", root, trial=3)


def test_wrong_lists_of_regdb(tmp_path: Path) -> None:
    root = write_regdb(tmp_path / "RegDB")
    list_file = root / "idx" / "test_thermal_3.txt"
    text = list_file.read_text()
    list_file.write_text(text + "Thermal/9/nobody.bmp 1\n\n")
    with pytest.raises(DataError, match=r"nobody\.bmp is in the list .*test_thermal_3\.txt but not on disk"):
        read("regdb", root, trial=3)
    list_file.write_text(text + "Thermal/1/a.bmp\n")
    with pytest.raises(DataError, match=r"test_thermal_3\.txt, line 5: .* is not 'file label'"):
        read("regdb", root, trial=3)
    list_file.unlink()
    with pytest.raises(DataError, match=r"Cannot read the list .*test_thermal_3\.txt of RegDB"):
        read("regdb", root, trial=3)
    read("regdb", root, trial=4)


def test_the_bmp_files_of_the_copies_are_bmp_files() -> None:
    """Against the header's own numbers, and one pixel where it should be: rows from the bottom, in BGR."""
    pixels = torch.zeros(3, 2, 3, dtype=torch.uint8)
    pixels[:, 0, 1] = torch.tensor([10, 20, 30])  # top row, second column
    data = bmp_bytes(pixels)
    assert data[:2] == b"BM"
    assert len(data) == int.from_bytes(data[2:6], "little") == 54 + 2 * 12
    assert data[54 + 12 + 3 : 54 + 12 + 6] == bytes([30, 20, 10])
    assert sum(data[54:]) == 60
