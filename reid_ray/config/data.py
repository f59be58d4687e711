"""Where images come from, and the views of them that training sees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from reid_ray.config.base import Section

Layout = Literal["synthetic", "market1501", "msmt17", "dukemtmc", "cuhk03-np", "folder", "csv", "parquet", "packed"]


class SyntheticConfig(Section):
    """The procedural world: people, cameras and images that are drawn, not downloaded."""

    n_train_ids: int = Field(default=60, ge=1)
    """People in the training split."""
    n_test_ids: int = Field(default=40, ge=0)
    """Other people, in query and gallery."""
    n_cameras: int = Field(default=6, ge=1)
    """Cameras, each with its own place, light, optics and colour response."""
    images_per_id: int = Field(default=16, ge=1)
    """Images of each person over all cameras, before the split in query and gallery."""
    height: int = Field(default=128, ge=32)
    """Height of the rendered crops, pixels."""
    width: int = Field(default=64, ge=16)
    """Width of the rendered crops, pixels."""
    seed: int = Field(default=0, ge=0)
    """Seed of the world. Training seeds do not change it."""


class StrongViewConfig(Section):
    """The augmented view (thesis ch. 6; released code). Every number is a setting of the paper's recipe."""

    pad: int = Field(default=10, ge=0)
    """Zero padding on each side before the random crop, pixels."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    blur: float = Field(default=0.5, ge=0, le=1)
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, pixels."""
    erase: float = Field(default=0.6, ge=0, le=1)
    """Probability of random erasing. The text says .5; the released code, which made the tables, .6."""
    erase_area: tuple[float, float] = (0.02, 0.4)
    """Range of the erased share of the image area."""
    erase_aspect: tuple[float, float] = (0.3, 3.3)
    """Range of the erased rectangle's aspect ratio, height / width."""


class DataConfig(Section):
    """The images: where they are, how big they become, and what is known about them."""

    layout: Layout = "synthetic"
    """How the data is laid out on disk; `synthetic` needs no disk."""
    root: str | None = None
    """Folder or file of the data, or its URI in an object store, as s3://bucket/packed; not used by `synthetic`."""
    version: Literal["V1", "V2"] | None = None
    """MSMT17 only: V1, or V2 with masked faces. Results of the two do not compare, so it is recorded."""
    detected: bool = True
    """CUHK03-np only: detected boxes (true) or labelled boxes (false)."""
    camera_level: int | None = Field(default=None, ge=0)
    """Folder layout: the folder level below `root`/split that names the camera (0 = first). None = no cameras."""
    camera_regex: str | None = None
    """Folder layout: a regular expression, searched in the relative path; its first group names the camera."""
    pid_regex: str | None = None
    """Folder layout: the same for the identity, where crops have one (used for evaluation only)."""
    use_cameras: bool = True
    """False strips the camera ids, to train and evaluate as a user without them would."""
    holdout: float = Field(default=0, ge=0, lt=1)
    """Share of the people in the training split who leave it and become query and gallery, to choose settings by; the
    data's own query and gallery are then not read. Who they are does not depend on any seed (docs/data.md)."""
    height: int = Field(default=256, ge=32)
    """Height that images are resized to, pixels (bicubic)."""
    width: int = Field(default=128, ge=16)
    """Width that images are resized to, pixels."""
    cache_mb: int = Field(default=4096, ge=0)
    """Memory for decoded and resized images, MB: for the training images, and as much again for query and gallery, in
    each process that reads them; 0 = off."""
    loader_threads: int = Field(default=2, ge=1)
    """Threads that decode and augment for one training worker."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """The synthetic world, when `layout` is `synthetic`."""
    strong: StrongViewConfig = StrongViewConfig()
    """The strong view of training."""

    @model_validator(mode="after")
    def _root_is_given(self) -> DataConfig:
        if self.layout != "synthetic" and not self.root:
            raise ValueError(
                f"layout '{self.layout}' needs a root (data.root, source.root), the folder or file of its images"
            )
        if self.camera_level is not None and self.camera_regex is not None:
            raise ValueError("give data.camera_level or data.camera_regex, not both")
        return self
