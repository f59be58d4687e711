"""Tiny datasets on disk, in each layout, with the names that the real ones have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.io import encode_jpeg, encode_png

WriteImage = Callable[..., Path]


def _encoded(suffix: str, seed: int, height: int, width: int) -> bytes:
    coarse = torch.randint(0, 256, (3, 4, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    pixels = coarse.repeat_interleave(height // 4, dim=1).repeat_interleave(width // 2, dim=2)
    data = encode_png(pixels) if suffix.lower() == ".png" else encode_jpeg(pixels, quality=90)
    return data.numpy().tobytes()


@pytest.fixture
def write_image() -> WriteImage:
    """Write an image that no other call of the test has written; folders are made."""
    n_written = 0

    def write(path: Path, *, height: int = 32, width: int = 16, seed: int | None = None) -> Path:
        nonlocal n_written
        n_written += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encoded(path.suffix, n_written if seed is None else seed, height, width))
        return path

    return write


@pytest.fixture
def market(tmp_path: Path, write_image: WriteImage) -> Path:
    """Market-1501: train pids 2 and 7 at cameras 1 and 3, a distractor and a junk image in the gallery."""
    root = tmp_path / "Market-1501-v15.09.15"
    for name in ("0007_c3s1_000300_01", "0002_c1s1_000451_03", "0002_c3s2_000100_00", "0002_c1s1_000500_01"):
        write_image(root / "bounding_box_train" / f"{name}.jpg")
    write_image(root / "query" / "0003_c6s1_000111_00.jpg")
    for name in ("0003_c2s1_000222_01", "0000_c4s1_000333_02", "-1_c5s1_000444_03"):
        write_image(root / "bounding_box_test" / f"{name}.jpg")
    return root


@pytest.fixture
def make_msmt17(tmp_path: Path, write_image: WriteImage) -> Callable[..., Path]:
    """MSMT17 in the version asked for: two people in train and val, two others in test."""

    def make(version: str = "V1", parent: Path | None = None) -> Path:
        root = (parent or tmp_path) / f"MSMT17_{version}"
        train, test = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}[version]
        lists = {
            "list_train.txt": (
                train,
                [
                    "0001/0001_000_15_0303noon_0020_1.jpg 1",
                    "0000/0000_001_02_0303morning_0016_0.jpg 0",
                ],
            ),
            "list_val.txt": (train, ["0000/0000_000_01_0303morning_0015_0.jpg 0"]),
            "list_query.txt": (test, ["0000/0000_000_05_0303morning_0015_0.jpg 0"]),
            "list_gallery.txt": (
                test,
                [
                    "0000/0000_001_06_0303morning_0016_0.jpg 0",
                    "0001/0001_000_05_0113noon_0017_2.jpg 1",
                ],
            ),
        }
        for name, (folder, lines) in lists.items():
            for line in lines:
                write_image(root / folder / line.split()[0])
            (root / name).write_text("".join(f"{line}\n" for line in lines))
        return root

    return make
