"""Packed datasets, as `reid-ray data pack` writes them."""

from __future__ import annotations

from reid_ray.config import DataConfig
from reid_ray.data.packed_images import MANIFEST, PackedImages, read_manifest, read_packed_table
from reid_ray.data.readers.scan import Scan, existing_root


def scan(config: DataConfig) -> Scan:
    """Read a packed dataset: its table and, where an image is requested, its shards."""
    root = existing_root(config.root, f"a folder written by 'reid-ray data pack', with {MANIFEST} in it")
    manifest = read_manifest(root)
    table = read_packed_table(root, manifest)
    return Scan(table, PackedImages(str(root)), needs=(("train", str(root)),))
