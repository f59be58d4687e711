"""Folders as people have them: one per identity, vehicles, splits by expression, and names of no published pattern."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torchvision
from pydantic import ValidationError
from typer.testing import CliRunner

from reid_ray.cli import app
from reid_ray.config import DataConfig
from reid_ray.data import read_dataset
from reid_ray.data.readers import detect_layout, scan_dataset
from reid_ray.data.readers.suggestion import suggested_expressions
from reid_ray.errors import DataError

WriteImage = Callable[..., Path]


def rows(layout: Any, root: Path, **settings: Any) -> list[tuple[str, str, int, int]]:
    columns = read_dataset(DataConfig(layout=layout, root=str(root), **settings)).table.arrow.to_pydict()
    inside = [Path(path).relative_to(root).as_posix() for path in columns["path"]]
    return list(zip(columns["split"], inside, columns["pid"], columns["camid"], strict=True))


def notes(layout: Any, root: Path, **settings: Any) -> tuple[str, ...]:
    return scan_dataset(DataConfig(layout=layout, root=str(root), **settings)).notes


# One folder per identity


def test_one_folder_per_identity(tmp_path: Path, write_image: WriteImage):
    for name in ("ann/1.jpg", "ann/2.jpg", "bob/deep/3.jpg", "10/4.jpg"):
        write_image(tmp_path / name)
    assert rows("imagefolder", tmp_path) == [
        ("train", "10/4.jpg", 0, -1),
        ("train", "ann/1.jpg", 1, -1),
        ("train", "ann/2.jpg", 1, -1),
        ("train", "bob/deep/3.jpg", 2, -1),
    ]


def test_identities_are_those_of_torchvision_s_image_folder(tmp_path: Path, write_image: WriteImage):
    for name in ("zoe/1.jpg", "zoe/2.jpg", "ann/a/3.jpg", "Bob/4.jpg", "bob 2/5.jpg"):
        write_image(tmp_path / name)
    theirs = torchvision.datasets.ImageFolder(tmp_path)
    table = read_dataset(DataConfig(layout="imagefolder", root=str(tmp_path))).table
    assert dict(zip(table.paths, table.pids.tolist(), strict=True)) == dict(theirs.samples)


def test_folders_named_by_numbers_keep_them(tmp_path: Path, write_image: WriteImage):
    for name in ("0007/1.jpg", "0012/1.jpg"):
        write_image(tmp_path / name)
    assert [row[2] for row in rows("imagefolder", tmp_path)] == [7, 12]


def test_splits_and_cameras_of_identity_folders(tmp_path: Path, write_image: WriteImage):
    for name in ("train/ann/c1/a.jpg", "train/bob/c2/b.jpg", "query/eve/c1/c.jpg", "gallery/eve/c2/d.jpg"):
        write_image(tmp_path / name)
    expected = [
        ("train", "train/ann/c1/a.jpg", 0, 0),
        ("train", "train/bob/c2/b.jpg", 1, 1),
        ("query", "query/eve/c1/c.jpg", 2, 0),
        ("gallery", "gallery/eve/c2/d.jpg", 2, 1),
    ]
    assert rows("imagefolder", tmp_path, camera_level=1) == expected
    assert rows("imagefolder", tmp_path, camera_regex=r"/(c\d)/") == expected


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_test_folder_in_one_piece_is_divided(tmp_path: Path, write_image: WriteImage, test: str):
    for name in ("train/ann/a.jpg", f"{test}/eve/b.jpg", f"{test}/eve/c.jpg", f"{test}/bob/d.jpg"):
        write_image(tmp_path / name)
    assert rows("imagefolder", tmp_path) == [
        ("train", "train/ann/a.jpg", 0, -1),
        ("query", f"{test}/eve/b.jpg", 2, -1),
        ("gallery", f"{test}/bob/d.jpg", 1, -1),
        ("gallery", f"{test}/eve/c.jpg", 2, -1),
    ]
    assert "divided into query and gallery" in notes("imagefolder", tmp_path)[0]


def test_an_image_in_no_identity_s_folder_is_named(tmp_path: Path, write_image: WriteImage):
    write_image(tmp_path / "ann" / "1.jpg")
    write_image(tmp_path / "loose.jpg")
    with pytest.raises(DataError, match=r"loose\.jpg is in no folder of an identity; move it into one"):
        rows("imagefolder", tmp_path)


def test_identity_folders_can_be_held_out(tmp_path: Path, write_image: WriteImage):
    for name in ("ann", "bob", "eve", "joe"):
        for i in range(2):
            write_image(tmp_path / name / f"{i}.jpg")
    found = rows("imagefolder", tmp_path, holdout=0.5)
    assert [row[0] for row in found] == ["train"] * 4 + ["query"] * 2 + ["gallery"] * 2


def test_a_folder_of_folders_says_how_they_could_be_read(tmp_path: Path, write_image: WriteImage):
    write_image(tmp_path / "ann" / "1.jpg")
    write_image(tmp_path / "bob" / "1.jpg")
    (note,) = notes("folder", tmp_path)
    assert "folders such as ann/" in note
    assert "data.layout=imagefolder" in note
    assert notes("folder", tmp_path, camera_level=0) == ()


# Vehicles


def test_veri776(tmp_path: Path, write_image: WriteImage):
    root = tmp_path / "VeRi"
    write_image(root / "image_train" / "0001_c001_00016450_0.jpg", height=64, width=64)
    write_image(root / "image_train" / "0776_c020_00016460_1.jpg", height=48, width=80)
    write_image(root / "image_query" / "0002_c002_00030600_0.jpg")
    write_image(root / "image_test" / "0002_c010_00030700_0.jpg")
    assert detect_layout(root) == detect_layout(tmp_path) == "veri776"
    found = read_dataset(DataConfig(layout="veri776", root=str(tmp_path)))
    assert rows("veri776", root) == [
        ("train", "image_train/0001_c001_00016450_0.jpg", 1, 0),
        ("train", "image_train/0776_c020_00016460_1.jpg", 776, 19),
        ("query", "image_query/0002_c002_00030600_0.jpg", 2, 1),
        ("gallery", "image_test/0002_c010_00030700_0.jpg", 2, 9),
    ]
    assert found.table.name == "veri776"
    assert found.images.read(found.table.paths[0]).shape == (3, 64, 64)


def test_veri776_misnamed_and_absent(tmp_path: Path, write_image: WriteImage):
    with pytest.raises(DataError, match=r"is not VeRi-776: there is no folder image_train"):
        rows("veri776", tmp_path)
    write_image(tmp_path / "image_train" / "0001_c000_00016450_0.jpg")  # cameras count from 1
    with pytest.raises(DataError, match=r"0001_c000_00016450_0\.jpg does not follow the naming of veri776"):
        rows("veri776", tmp_path)


# Splits by expression


@pytest.fixture
def mixed(tmp_path: Path, write_image: WriteImage) -> Path:
    for name in ("day1/ann-cam2-1.jpg", "day1/bob-cam1-1.jpg", "day2/eve-cam1-q.jpg", "day2/eve-cam2-g.jpg"):
        write_image(tmp_path / name)
    return tmp_path


SPLIT_EXPRESSIONS = {
    "train_regex": r"^day1/(?P<pid>\w+)-cam(?P<camera>\d)",
    "query_regex": r"^day2/(?P<pid>\w+)-cam(?P<camera>\d)-q",
    "gallery_regex": r"^day2/(?P<pid>\w+)-cam(?P<camera>\d)-g",
}


def test_expressions_say_split_identity_and_camera(mixed: Path):
    assert rows("folder", mixed, **SPLIT_EXPRESSIONS) == [
        ("train", "day1/ann-cam2-1.jpg", 0, 1),
        ("train", "day1/bob-cam1-1.jpg", 1, 0),
        ("query", "day2/eve-cam1-q.jpg", 2, 0),
        ("gallery", "day2/eve-cam2-g.jpg", 2, 1),
    ]


def test_a_split_without_groups_takes_the_common_rules(mixed: Path):
    settings = {**SPLIT_EXPRESSIONS, "train_regex": "^day1/"}
    assert [row[2:] for row in rows("folder", mixed, **settings)][:2] == [(-1, -1), (-1, -1)]
    common = rows("folder", mixed, **settings, camera_regex=r"cam(\d)", pid_regex=r"/(\w+)-")
    assert common == rows("folder", mixed, **SPLIT_EXPRESSIONS)


def test_training_alone_by_expression(mixed: Path):
    with pytest.raises(DataError, match=r"eve-cam1-q\.jpg fits none of data\.train_regex; .*And 1 more"):
        rows("folder", mixed, train_regex="^day1/")
    assert [row[0] for row in rows("folder", mixed, train_regex="^day")] == ["train"] * 4


def test_a_file_of_two_splits_is_named(mixed: Path):
    settings = {**SPLIT_EXPRESSIONS, "query_regex": "^day2/"}
    with pytest.raises(DataError, match=r"eve-cam2-g\.jpg fits data\.query_regex and data\.gallery_regex; make them"):
        rows("folder", mixed, **settings)


def test_an_empty_group_names_nothing(mixed: Path):
    with pytest.raises(DataError, match=r"ann-cam2-1\.jpg has no pid by the group of its split's expression"):
        rows("folder", mixed, **{**SPLIT_EXPRESSIONS, "train_regex": "^day1/(?P<pid>x?)"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_regex": "q", "gallery_regex": "g"}, "give data.train_regex alone, or with both"),
        ({"train_regex": "t", "query_regex": "q"}, "give data.train_regex alone, or with both"),
        ({"layout": "csv", "train_regex": "t"}, "are for data.layout=folder"),
    ],
)
def test_expressions_that_do_not_go_together(settings: dict[str, str], message: str):
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate({"layout": "folder", "root": ".", **settings})


@pytest.mark.parametrize("expression", ["(", "(?P<pid>", "a{99999999999}", "*"])
def test_expressions_that_are_none(mixed: Path, expression: str):
    with pytest.raises(DataError, match=r"data\.train_regex .* is not a regular expression"):
        rows("folder", mixed, train_regex=expression)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "query", "gallery"),
        ("bounding_box_train", "query", "bounding_box_test"),
        ("image_train", "image_query", "image_test"),
        ("train", "query", "test"),
        ("train", "probe", "gallery"),
    ],
)
def test_folders_of_splits_have_many_names(tmp_path: Path, write_image: WriteImage, names: tuple[str, ...]):
    for name in names:
        write_image(tmp_path / name / "a.jpg")
    assert [row[0] for row in rows("folder", tmp_path)] == ["train", "query", "gallery"]


# Names of no published pattern


def test_unknown_names_are_shown_with_a_command_that_reads_them(tmp_path: Path, write_image: WriteImage):
    root = tmp_path / "our crops"
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        for person in ("ann", "bob"):
            for camera in (1, 2):
                write_image(root / split / f"{person}-cam{camera}-{split[0]}.jpg")
    with pytest.raises(DataError) as caught:
        detect_layout(root)
    message = str(caught.value)
    assert "(ann-cam1-b.jpg and bob-cam2-b.jpg)" in message
    _, *arguments = shlex.split(message.partition("as in: ")[2])
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"train.*4.*2.*2", result.output), "four images, two identities, two cameras"
    assert "No problems found." in result.output


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["12_c1_a.jpg", "7_c2_b.jpg"], {"pid": r"^(\d+)", "camera": r"(?:^|[_\-./])[cC](\d+)"}),
        (["ann/Camera-1.jpg", "ann/Camera-2.jpg"], {"pid": r"^([^/]+)/", "camera": r"[cC]am(?:era)?[_-]?(\d+)"}),
        (["a1.jpg", "b2.jpg"], {"pid": r"^([^_\-.\s]+)"}),
        (["001.jpg", "002.jpg"], {"pid": r"^(\d+)"}),
        (["_.jpg"], {}),
    ],
)
def test_suggested_expressions(names: list[str], expected: dict[str, str]):
    assert suggested_expressions(names) == expected


def test_a_train_folder_without_images_is_named(tmp_path: Path):
    (tmp_path / "bounding_box_train").mkdir()
    with pytest.raises(DataError, match=r"There are no images in .*bounding_box_train"):
        detect_layout(tmp_path)


# Hostile names


def test_a_number_too_large_for_a_table_is_misnamed(market: Path, write_image: WriteImage):
    write_image(market / "query" / f"{'9' * 30}_c1s1_000001_00.jpg")
    with pytest.raises(DataError, match="does not follow the naming"):
        rows("market1501", market)


@pytest.mark.parametrize("entry", ["../../secret.jpg 0", "/etc/secret.jpg 0", "0000/../../x.jpg 0"])
def test_a_list_of_msmt17_does_not_lead_out_of_its_folder(make_msmt17: Callable[..., Path], entry: str):
    root = make_msmt17()
    (root / "list_query.txt").write_text(entry + "\n")
    with pytest.raises(DataError, match=r"list_query\.txt, line 1: .* leads out of the dataset's folder"):
        rows("msmt17", root)


NASTY = [
    "<img src=x onerror=alert(1)>.jpg",
    "[red]x.jpg",
    "[nope].jpg",
    "a\nb.jpg",
    "\x1b[31mred.jpg",
    "%s{0}.jpg",
]


@pytest.mark.parametrize("name", NASTY)
def test_names_with_markup_and_control_characters_are_printed_as_text(
    tmp_path: Path, write_image: WriteImage, name: str
):
    folder = tmp_path / "[bold]crops"
    image = write_image(folder / "good.jpg")
    (folder / name).write_bytes(image.read_bytes()[:100])
    result = CliRunner().invoke(app, ["data", "check", str(folder)])
    assert result.exit_code == 1, result.output
    assert "\x1b" not in result.stdout
    shown = name.encode("unicode_escape").decode()
    assert f"{shown} ends before the image does." in result.stdout
    assert "[bold]crops (layout folder)" in " ".join(result.stdout.split())
