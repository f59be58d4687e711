"""Each layout, read from a tiny copy of it; and each way in which a user's folder can be wrong."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from read_layouts import read, rows
from seeds import SEEDS

from reid_ray.config import DataConfig, SyntheticConfig
from reid_ray.data import read_dataset
from reid_ray.data.readers import SCANNERS, detect_layout
from reid_ray.data.readers.numbering import camera_numbers, person_numbers
from reid_ray.data.readers.scan import walk_files
from reid_ray.errors import DataError


def test_every_layout_of_the_config_has_a_reader():
    assert set(SCANNERS) == set(DataConfig.model_fields["layout"].annotation.__args__)


# Box layouts


@pytest.mark.parametrize("above", [False, True])
def test_market1501(market: Path, above: bool):
    dataset = read("market1501", market.parent if above else market)
    assert rows(dataset) == [
        ("train", "0002_c1s1_000451_03.jpg", 2, 0),
        ("train", "0002_c1s1_000500_01.jpg", 2, 0),
        ("train", "0002_c3s2_000100_00.jpg", 2, 2),
        ("train", "0007_c3s1_000300_01.jpg", 7, 2),
        ("query", "0003_c6s1_000111_00.jpg", 3, 5),
        ("gallery", "0000_c4s1_000333_02.jpg", 0, 3),  # the distractor stays, the junk image (pid -1) is gone
        ("gallery", "0003_c2s1_000222_01.jpg", 3, 1),
    ]
    assert dataset.table.name == "market1501"
    assert dataset.images.read(dataset.train.paths[0]).shape == (3, 32, 16)


def test_use_cameras_false_strips_the_cameras_and_nothing_else(market: Path):
    with_cameras, without = read("market1501", market), read("market1501", market, use_cameras=False)
    assert not without.table.has_cameras
    assert without.table.paths == with_cameras.table.paths
    assert without.table.pids.tolist() == with_cameras.table.pids.tolist()


def test_other_files_in_the_folders_are_not_images(market: Path):
    before = rows(read("market1501", market))
    for name in ("Thumbs.db", "notes.txt", "._0002_c1s1_000451_03.jpg"):
        (market / "bounding_box_train" / name).write_bytes(b"x")
    assert rows(read("market1501", market)) == before


def test_upper_case_suffixes_are_images(market: Path, write_image: Callable[..., Path]):
    write_image(market / "bounding_box_train" / "0009_c1s1_000001_00.JPG")
    assert ("train", "0009_c1s1_000001_00.JPG", 9, 0) in rows(read("market1501", market))


def test_a_misnamed_image_is_named(market: Path, write_image: Callable[..., Path]):
    write_image(market / "query" / "holiday.jpg")
    write_image(market / "query" / "holiday2.jpg")
    with pytest.raises(DataError, match=r"holiday\.jpg does not follow.*And 1 more"):
        read("market1501", market)


@pytest.mark.parametrize("split", ["query", "bounding_box_train", "bounding_box_test"])
def test_an_empty_split_is_named(market: Path, split: str):
    for file in (market / split).iterdir():
        file.unlink()
    name = {"query": "query", "bounding_box_train": "train", "bounding_box_test": "gallery"}[split]
    with pytest.raises(DataError, match=rf"The {name} split is empty.*{split}"):
        read("market1501", market)


@pytest.mark.parametrize(
    "layout", ["market1501", "msmt17", "dukemtmc", "cuhk03-np", "mars", "folder", "packed", "csv", "parquet"]
)
def test_a_missing_root_is_named_with_what_should_be_there(tmp_path: Path, layout: str):
    with pytest.raises(DataError, match=r"There is no (folder|file) .*nowhere; data\.root should be "):
        read(layout, tmp_path / "nowhere")


@pytest.mark.parametrize("layout", ["market1501", "msmt17", "dukemtmc", "cuhk03-np", "mars"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, layout: str):
    with pytest.raises(DataError, match=r"is not "):
        read(layout, tmp_path)


def test_dukemtmc(tmp_path: Path, write_image: Callable[..., Path]):
    write_image(tmp_path / "bounding_box_train" / "0001_c2_f0046182.jpg")
    write_image(tmp_path / "query" / "0005_c8_f0000001.jpg")
    write_image(tmp_path / "bounding_box_test" / "0005_c1_f0000002.jpg")
    assert rows(read("dukemtmc", tmp_path)) == [
        ("train", "0001_c2_f0046182.jpg", 1, 1),
        ("query", "0005_c8_f0000001.jpg", 5, 7),
        ("gallery", "0005_c1_f0000002.jpg", 5, 0),
    ]


@pytest.mark.parametrize("nested", ["", "cuhk03-np"])
def test_cuhk03_np_reads_the_boxes_asked_for(tmp_path: Path, write_image: Callable[..., Path], nested: str):
    for boxes, n_train in (("detected", 2), ("labeled", 3)):
        folder = tmp_path / nested / boxes
        for i in range(n_train):
            write_image(folder / "bounding_box_train" / f"0001_c{i % 2 + 1}_{i}.png")
        write_image(folder / "query" / "0002_c1_1.png")
        write_image(folder / "bounding_box_test" / "0002_c2_1.png")
    detected = read("cuhk03-np", tmp_path)
    labelled = read("cuhk03-np", tmp_path, detected=False)
    assert (len(detected.train), len(labelled.train)) == (2, 3)
    assert (detected.table.name, labelled.table.name) == ("cuhk03-np-detected", "cuhk03-np-labeled")
    assert detected.train.camids.tolist() == [0, 1]


def test_cuhk03_np_does_not_take_one_kind_of_boxes_for_the_other(tmp_path: Path, write_image: Callable[..., Path]):
    write_image(tmp_path / "labeled" / "bounding_box_train" / "0001_c1_1.png")
    with pytest.raises(DataError, match="CUHK03-np with detected boxes"):
        read("cuhk03-np", tmp_path)


# MSMT17


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("above", [False, True])
def test_msmt17(make_msmt17: Callable[..., Path], version: str, above: bool):
    root = make_msmt17(version)
    dataset = read("msmt17", root.parent if above else root)
    assert dataset.table.name == f"msmt17-{version}"
    assert rows(dataset) == [
        ("train", "0000_000_01_0303morning_0015_0.jpg", 0, 0),  # from list_val.txt
        ("train", "0000_001_02_0303morning_0016_0.jpg", 0, 1),
        ("train", "0001_000_15_0303noon_0020_1.jpg", 1, 14),
        ("query", "0000_000_05_0303morning_0015_0.jpg", 2, 4),  # test people are not the people of train
        ("gallery", "0000_001_06_0303morning_0016_0.jpg", 2, 5),
        ("gallery", "0001_000_05_0113noon_0017_2.jpg", 3, 4),
    ]
    assert all(Path(path).is_file() for path in dataset.table.paths)


def test_msmt17_of_another_version_is_refused(make_msmt17: Callable[..., Path]):
    root = make_msmt17("V1")
    assert read("msmt17", root, version="V1").table.name == "msmt17-V1"
    with pytest.raises(DataError, match=r"is MSMT17 V1 .*data\.version is V2"):
        read("msmt17", root, version="V2")


def test_msmt17_with_both_versions_needs_the_choice(make_msmt17: Callable[..., Path]):
    parent = make_msmt17("V1").parent
    make_msmt17("V2")
    with pytest.raises(DataError, match="holds MSMT17 V1 and V2"):
        read("msmt17", parent)
    assert read("msmt17", parent, version="V2").table.name == "msmt17-V2"


@pytest.mark.parametrize(
    "line", ["0000/0000_000_01_0303morning_0015_0.jpg", "0000/0000_000_01_0303morning_0015_0.jpg x"]
)
def test_msmt17_bad_line(make_msmt17: Callable[..., Path], line: str):
    root = make_msmt17()
    with (root / "list_query.txt").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=r"list_query\.txt, line 2: "):
        read("msmt17", root)


def test_msmt17_listed_file_that_is_missing(make_msmt17: Callable[..., Path]):
    root = make_msmt17()
    (root / "test/0001/0001_000_05_0113noon_0017_2.jpg").unlink()
    with pytest.raises(
        DataError, match=r"0001_000_05_0113noon_0017_2\.jpg is in a list of the gallery split but not on disk"
    ):
        read("msmt17", root)


def test_msmt17_list_that_is_missing(make_msmt17: Callable[..., Path]):
    root = make_msmt17()
    (root / "list_val.txt").unlink()
    with pytest.raises(DataError, match=r"list_val\.txt"):
        read("msmt17", root)


# A folder of crops


def test_folder_without_anything_known(tmp_path: Path, write_image: Callable[..., Path]):
    for name in ("b/2.png", "a.jpg", "b/1.JPEG", "odd näme #1 (копия).png"):
        write_image(tmp_path / name)
    (tmp_path / "b" / "readme.txt").write_text("not an image")
    dataset = read("folder", tmp_path)
    assert [Path(path).relative_to(tmp_path).as_posix() for path in dataset.table.paths] == [
        "a.jpg",
        "b/1.JPEG",
        "b/2.png",
        "odd näme #1 (копия).png",
    ]
    assert set(dataset.table.arrow["split"].to_pylist()) == {"train"}
    assert not dataset.table.has_pids
    assert not dataset.table.has_cameras
    for path in dataset.table.paths:
        assert dataset.images.read(path).shape == (3, 32, 16)


def test_folder_cameras_are_numbered_over_all_splits(tmp_path: Path, write_image: Callable[..., Path]):
    for name in ("train/10/a.jpg", "train/2/b.jpg", "query/3/c.jpg", "gallery/10/deep/d.jpg"):
        write_image(tmp_path / name)
    dataset = read("folder", tmp_path, camera_level=0)
    assert rows(dataset) == [
        ("train", "a.jpg", -1, 2),
        ("train", "b.jpg", -1, 0),
        ("query", "c.jpg", -1, 1),
        ("gallery", "d.jpg", -1, 2),
    ]


def test_folder_camera_level_counts_below_the_split(tmp_path: Path, write_image: Callable[..., Path]):
    for name in ("monday/hall/a.jpg", "monday/door/b.jpg", "tuesday/door/c.jpg"):
        write_image(tmp_path / name)
    assert read("folder", tmp_path, camera_level=1).table.camids.tolist() == [0, 1, 0]


@pytest.mark.parametrize("level", [1, 7])
def test_folder_camera_level_deeper_than_the_folders(tmp_path: Path, write_image: Callable[..., Path], level: int):
    write_image(tmp_path / "a" / "b" / "1.jpg")
    write_image(tmp_path / "a" / "2.jpg")
    with pytest.raises(DataError, match=rf"2\.jpg has no folder at data\.camera_level={level}"):
        read("folder", tmp_path, camera_level=level)


def test_folder_regexes(tmp_path: Path, write_image: Callable[..., Path]):
    for name in ("train/12_cam3_a.jpg", "train/7_cam1_b.jpg", "query/5_cam3_c.jpg", "gallery/-1_cam1_d.jpg"):
        write_image(tmp_path / name)
    dataset = read("folder", tmp_path, camera_regex=r"_cam(\d+)", pid_regex=r"^(-?\d+)_")
    assert rows(dataset) == [
        ("train", "12_cam3_a.jpg", 12, 1),
        ("train", "7_cam1_b.jpg", 7, 0),
        ("query", "5_cam3_c.jpg", 5, 1),
        ("gallery", "-1_cam1_d.jpg", -1, 0),
    ]


def test_folder_pids_may_be_known_in_the_test_splits_only(tmp_path: Path, write_image: Callable[..., Path]):
    for name in ("train/x.jpg", "query/ann/1.jpg", "gallery/bob/2.jpg", "gallery/ann/3.jpg"):
        write_image(tmp_path / name)
    assert [row[2] for row in rows(read("folder", tmp_path, pid_regex=r"^(\w+)/"))] == [-1, 0, 0, 1]
    write_image(tmp_path / "query" / "nobody.jpg")
    with pytest.raises(DataError, match=r"nobody\.jpg does not fit data\.pid_regex"):
        read("folder", tmp_path, pid_regex=r"^(\w+)/")


@pytest.mark.parametrize("setting", ["camera_regex", "pid_regex"])
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("(", "is not a regular expression"),
        (r"c\d", "has no group"),
        (
            r"(camera\d)",
            r"c1_a\.jpg does not fit .*And 2 more",
        ),  # fits none (the empty split is reported as well)
        (r"(c1)", r"c2_b\.jpg does not fit"),  # fits some
        (r"(c1)?", r"c2_b\.jpg does not fit"),  # matches everywhere, but its group does not
    ],
)
def test_folder_bad_regex(
    tmp_path: Path, write_image: Callable[..., Path], setting: str, expression: str, message: str
):
    write_image(tmp_path / "c1_a.jpg")
    write_image(tmp_path / "c2_b.jpg")
    with pytest.raises(DataError, match=message):
        read("folder", tmp_path, **{setting: expression})


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ((), "The train split is empty"),
        (("train",), "The train split is empty"),
        (("train", "query"), r"has train/ and query/ but no gallery/"),
        (("train", "gallery"), r"has train/ and gallery/ but no query/"),
        (("query", "gallery"), r"has query/ and gallery/ but no train/"),
    ],
)
def test_folder_without_the_splits_it_needs(tmp_path: Path, folders: tuple[str, ...], message: str):
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=message):
        read("folder", tmp_path)


def test_folder_name_that_is_not_utf8_is_named_not_a_crash(tmp_path: Path, write_image: Callable[..., Path]):
    image = write_image(tmp_path / "good.jpg")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jpg")).write_bytes(image.read_bytes())
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(DataError, match=r"bad\\udcff\.jpg has a name that is not valid UTF-8"):
        read("folder", tmp_path)


def test_folder_follows_links_once(tmp_path: Path, write_image: Callable[..., Path]):
    outside = write_image(tmp_path / "elsewhere" / "a.jpg").parent
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(outside)
    (root / "loop").symlink_to(root)
    assert [path.relative_to(root).as_posix() for path in walk_files(root)] == ["linked/a.jpg"]


# Numbering


@pytest.mark.parametrize(
    ("names", "cameras", "persons"),
    [
        ([], {}, {}),
        (["7"], {"7": 0}, {"7": 7}),
        (["10", "9", "010"], {"9": 0, "10": 1, "010": 1}, {"9": 9, "10": 10, "010": 10}),
        (["10", "9", "x"], {"10": 0, "9": 1, "x": 2}, {"10": 0, "9": 1, "x": 2}),
        (["-1", "4"], {"-1": -1, "4": 0}, {"-1": -1, "4": 4}),
        (["9" * 30], {"9" * 30: 0}, {"9" * 30: 0}),  # does not fit int64, so it is a name
        (["٣", "2"], {"2": 0, "٣": 1}, {"2": 0, "٣": 1}),
    ],
)
def test_numbering(names: list[str], cameras: dict[str, int], persons: dict[str, int]):
    assert camera_numbers(names) == cameras
    assert person_numbers(names) == persons


@settings(max_examples=5)
@given(seed=SEEDS)
def test_camera_numbers_do_not_depend_on_the_order(seed: int):
    rng = random.Random(seed)
    names = [str(rng.randrange(50)) for _ in range(30)]
    expected = sorted(set(map(int, names)))
    for _ in range(3):
        rng.shuffle(names)
        assert camera_numbers(names) == {name: expected.index(int(name)) for name in names}


# Synthetic, and telling layouts apart


def test_synthetic_needs_no_disk():
    world = SyntheticConfig(n_train_ids=2, n_test_ids=2, n_cameras=2, images_per_id=4)
    dataset = read_dataset(DataConfig(layout="synthetic", synthetic=world))
    assert len(dataset.train) == 8


def test_detect_layout(
    tmp_path: Path, market: Path, make_msmt17: Callable[..., Path], write_image: Callable[..., Path]
):
    assert detect_layout(market) == "market1501"
    assert detect_layout(make_msmt17("V2", tmp_path / "m")) == "msmt17"
    assert detect_layout(tmp_path / "m") == "msmt17"
    write_image(tmp_path / "duke" / "bounding_box_train" / "0001_c2_f0046182.jpg")
    assert detect_layout(tmp_path / "duke") == "dukemtmc"
    write_image(tmp_path / "cuhk" / "detected" / "bounding_box_train" / "0001_c1_1.png")
    assert detect_layout(tmp_path / "cuhk") == "cuhk03-np"
    write_image(tmp_path / "mine" / "a.jpg")
    assert detect_layout(tmp_path / "mine") == "folder"
    (tmp_path / "list.csv").write_text("path\n")
    assert detect_layout(tmp_path / "list.csv") == "csv"
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "list.parquet")
    assert detect_layout(tmp_path / "list.parquet") == "parquet"


@pytest.mark.parametrize("name", ["nothing", "file.txt", "boxes"])
def test_detect_layout_of_what_has_none(tmp_path: Path, write_image: Callable[..., Path], name: str):
    (tmp_path / "file.txt").write_text("x")
    write_image(tmp_path / "boxes" / "bounding_box_train" / "who.jpg")
    with pytest.raises(DataError, match=name):
        detect_layout(tmp_path / name)
