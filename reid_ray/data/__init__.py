"""Data: tables of images, dataset readers that build them, and image readers that return pixels."""

from __future__ import annotations

from reid_ray.data.images import Dataset, FileImages, ImageReader
from reid_ray.data.readers import read_dataset
from reid_ray.data.table import ImageTable

__all__ = ["Dataset", "FileImages", "ImageReader", "ImageTable", "read_dataset"]
