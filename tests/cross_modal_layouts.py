"""Copies of SYSU-MM01 and RegDB: small ones with images, and complete ones of empty files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torchvision.io import encode_jpeg

SYSU_TEST_IDS = (
    *(6, 10, 17, 21, 24, 25, 27, 28, 31, 34, 36, 37, 40, 41, 42, 43, 44, 45, 49, 50, 51, 54, 63, 69, 75, 80, 81, 82),
    *(83, 84, 85, 86, 87, 88, 89, 90, 93, 102, 104, 105, 106, 108, 112, 116, 117, 122, 125, 129, 130, 134, 138, 139),
    *(150, 152, 162, 166, 167, 170, 172, 176, 185, 190, 192, 202, 204, 207, 210, 215, 223, 229, 232, 237, 252, 253),
    *(257, 259, 263, 266, 269, 272, 273, 274, 275, 282, 285, 291, 300, 301, 302, 303, 307, 312, 315, 318, 331, 333),
)
"""The dataset's 96."""

SYSU_VAL_IDS = (*range(334, 347), *range(348, 434))
"""The dataset's 99."""

Write = Callable[[Path], None]


def write_empty(path: Path) -> None:
    path.touch()


def write_image(path: Path) -> None:
    """A small image of random pixels, JPEG or BMP by the suffix; the same for the same path."""
    pixels = torch.randint(
        0, 256, (3, 24, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(path.as_posix().encode()))
    )
    path.write_bytes(bmp_bytes(pixels) if path.suffix == ".bmp" else encode_jpeg(pixels).numpy().tobytes())


def bmp_bytes(pixels: torch.Tensor) -> bytes:
    """RGB pixels uint8 [3, H, W] as an uncompressed BMP of 24 bits: rows from the bottom, BGR, padded to 4 bytes."""
    _, height, width = pixels.shape
    padding = bytes(-3 * width % 4)
    rows = (row.numpy().tobytes() + padding for row in pixels.flip(0).permute(1, 2, 0).flip(0).contiguous())
    body = b"".join(rows)
    header = struct.pack("<2sIHHI", b"BM", 54 + len(body), 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(body), 2835, 2835, 0, 0)
    return header + info + body


def write_sysu(
    root: Path,
    images: Mapping[int, Mapping[int, int]],
    *,
    train: Iterable[int],
    val: Iterable[int],
    test: Iterable[int],
    write: Write = write_image,
) -> Path:
    """SYSU-MM01 with `images` camera → pid → number of images, and lists of people."""
    (root / "exp").mkdir(parents=True)
    for name, ids in (("train", train), ("val", val), ("test", test)):
        (root / "exp" / f"{name}_id.txt").write_text(",".join(map(str, ids)) + "\n")
    for camera in range(1, 7):
        (root / f"cam{camera}").mkdir()
        for pid, n_images in images.get(camera, {}).items():
            folder = root / f"cam{camera}" / f"{pid:04d}"
            folder.mkdir()
            for number in range(1, n_images + 1):
                write(folder / f"{number:04d}.jpg")
    return root


def write_small_sysu(root: Path) -> Path:
    """People 1, 2 train, 3 val, 4, 5 test (5 by cameras 4, 5, 6 alone), 6 in no list."""
    images = {
        1: {1: 2, 3: 1, 4: 12},
        2: {1: 1, 4: 2},
        3: {1: 1, 2: 1, 4: 2},
        4: {2: 1, 4: 1, 5: 3, 6: 1},
        5: {5: 1},
        6: {2: 1, 4: 1, 5: 1},
    }
    return write_sysu(root, images, train=[1, 2], val=[3], test=[4, 5])


def write_whole_sysu(root: Path) -> Path:
    """Empty files for all test images: 96 people, the dataset's counts of images and people for each camera.

    Which 56 people cameras 1 and 2 have seen, and how images are spread over people, is made up, so that 1,595 infrared
    images are of people whom neither has seen. So are the ids of the 296 people of the train list. Train and val have
    one image each by camera 1 and camera 3.
    """
    outdoors, indoors = SYSU_TEST_IDS[56:], SYSU_TEST_IDS[:56]
    others = [pid for pid in range(1, 534) if pid not in SYSU_TEST_IDS and pid not in SYSU_VAL_IDS][:296]
    train = dict.fromkeys((*others, *SYSU_VAL_IDS), 1)
    images = {
        1: {**train, **_spread(1374, indoors)},
        2: _spread(1565, indoors),
        3: {**train, **_spread(1088, indoors), **_spread(795, outdoors[:37])},
        4: _spread(1918, SYSU_TEST_IDS[:94]),
        5: _spread(1918, SYSU_TEST_IDS[1:]),
        6: {**_spread(1120, indoors), **_spread(800, outdoors)},
    }
    return write_sysu(root, images, train=others, val=SYSU_VAL_IDS, test=SYSU_TEST_IDS, write=write_empty)


def write_regdb(
    root: Path, *, n_people: int = 4, n_images: int = 2, n_trials: int = 10, write: Write = write_image
) -> Path:
    """RegDB: in trial t, people t, t + 1, … (half of them, in a circle) train and the others test."""
    (root / "idx").mkdir(parents=True)
    files: dict[str, dict[int, list[str]]] = {"visible": {}, "thermal": {}}
    for name, of_people in files.items():
        for person in range(1, n_people + 1):
            folder = Path(name.capitalize()) / str(person)
            (root / folder).mkdir(parents=True)
            stems = [f"male_front_{name[0]}_{100 * person + i:05d}_{person}.bmp" for i in range(n_images)]
            of_people[person] = [(folder / stem).as_posix() for stem in stems]
            for file in of_people[person]:
                write(root / file)
    for trial in range(1, n_trials + 1):
        circle = [(trial - 1 + i) % n_people + 1 for i in range(n_people)]
        halves = {"train": circle[: n_people // 2], "test": circle[n_people // 2 :]}
        for split, people in halves.items():
            for name, of_people in files.items():
                lines = [f"{file} {label}\n" for label, person in enumerate(people) for file in of_people[person]]
                (root / "idx" / f"{split}_{name}_{trial}.txt").write_text("".join(lines))
    return root


def _spread(n_images: int, people: tuple[int, ...]) -> dict[int, int]:
    """As evenly as can be."""
    each, more = divmod(n_images, len(people))
    return {pid: each + (i < more) for i, pid in enumerate(people)}
