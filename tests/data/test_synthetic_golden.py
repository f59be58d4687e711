"""Visible images of the synthetic world as they were before it had attributes, tracklets, infrared and meshes.

Results, checkpoints and tests refer to these images, so an extension of the world must not change one byte of them.
"""

from __future__ import annotations

import hashlib

import pytest

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.synthetic import make_dataset

WORLDS: dict[str, dict[str, int]] = {
    "default": {},
    "small": {"n_train_ids": 6, "n_test_ids": 8, "n_cameras": 4, "images_per_id": 10, "height": 64, "width": 32},
    "large": {"n_train_ids": 4, "n_test_ids": 2, "images_per_id": 6, "height": 256, "width": 128, "seed": 3},
    "odd": {"n_train_ids": 5, "n_test_ids": 3, "n_cameras": 2, "images_per_id": 7, "height": 100, "width": 45,
            "seed": 11},
    "alone": {"n_train_ids": 3, "n_test_ids": 2, "n_cameras": 1, "images_per_id": 4, "height": 32, "width": 16,
              "seed": 5},
    "many": {"n_train_ids": 12, "n_test_ids": 6, "n_cameras": 15, "images_per_id": 20, "seed": 1000},
}  # fmt: skip

GOLDEN = {
    "default": ("c7c0a0f56327", "34e935343907 b2467c971cc5 91d880c35748 8bf4d687833e "
                "83a02ae58e36 23c0352097c5 b89826df4e88 ba5f299cf124"),
    "small": ("859d2023fda9", "9c671a665575 95b6649753ec 4feb8293b68b 75ff14604938 "
              "421272a44612 c2a8dcd4a1c1 db44de755d97 453196563377"),
    "large": ("a576f64368fb", "5b25bc5a061e fa7811789011 6166d3d31acd ec6bcc438d5a "
              "720b10a89aa9 539cc7f37629 b6fd66adf930 6d37cf401352"),
    "odd": ("d13c4ab5d07d", "c071d1d325c0 1349db88ac36 533c8c3db2fb 538a7d32731f "
            "50c1a464753f 4165767d5c5d 66fcfc6af259 31ea948ec069"),
    "alone": ("c61b296b93b4", "4d898579cd94 0f2648cdbb01 6ea907d25d74 213babff18ae "
              "f319be64ebce 775b4e682660 ee446089f9db 142a77ee7a2f"),
    "many": ("ef0b9abab0fa", "08881e2605f9 690352872e9d b0425d978919 497673f0026f "
             "4ec2d6d6070a dfb2e15ac61c 42409bc54996 b9cafe0c78f4"),
}  # fmt: skip
"""First 12 hex digits of SHA-256: of the table's paths, one a line, and of eight images spread over the table."""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


@pytest.mark.parametrize("name", WORLDS)
def test_visible_images_keep_their_bytes(name: str) -> None:
    dataset = make_dataset(SyntheticConfig(**WORLDS[name]))
    paths = dataset.table.paths
    keys, images = GOLDEN[name]
    assert _digest("\n".join(paths).encode()) == keys
    chosen = [paths[index * (len(paths) - 1) // 7] for index in range(8)]
    assert [_digest(dataset.images.read(path).numpy().tobytes()) for path in chosen] == images.split()
