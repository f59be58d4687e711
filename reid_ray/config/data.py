"""Where images come from, and the views of them that training sees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from reid_ray.config.base import Section

Layout = Literal[
    "synthetic",
    "market1501",
    "msmt17",
    "dukemtmc",
    "cuhk03-np",
    "veri776",
    "sysu-mm01",
    "regdb",
    "mars",
    "folder",
    "imagefolder",
    "csv",
    "parquet",
    "packed",
]
Spectrum = Literal["visible", "near_infrared", "thermal"]


class SyntheticConfig(Section):
    """The procedural world: people, cameras and images that are drawn, not downloaded."""

    n_train_ids: int = Field(default=60, ge=1)
    """People in the training split."""
    n_test_ids: int = Field(default=40, ge=0)
    """Other people, in query and gallery."""
    n_cameras: int = Field(default=6, ge=1)
    """Cameras, each with its own place, light, optics and colour response."""
    images_per_id: int = Field(default=16, ge=1)
    """Images of each person over all cameras, before the split in query and gallery. Not used with tracklets."""
    tracklets_per_id: int = Field(default=0, ge=0)
    """Tracklets of each person over all cameras; 0 = images in short walks, `images_per_id` in all. A tracklet is a
    video of one walk: the person moves evenly, the box shakes, and others pass between the person and the camera."""
    tracklet_frames: tuple[int, int] = (15, 40)
    """Fewest and most frames of a tracklet."""
    spectrum: Spectrum = "visible"
    """What the cameras see. `near_infrared` is a world like SYSU-MM01: six cameras with ids 1 … 6, of which 3 (in the
    place of camera 2) and 6 are near-infrared; every infrared test image is a query, every visible one gallery.
    `thermal` is a world like RegDB: a visible camera 1 and a thermal camera 2 in one place, which take each picture at
    the same moment; visible test images are queries, thermal ones gallery. Set `n_cameras` to 6 or 2."""
    mesh_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the error in each joint angle of the body meshes, radians, as that of a mesh estimator. It
    changes no image."""
    height: int = Field(default=128, ge=32)
    """Height of the rendered crops, pixels."""
    width: int = Field(default=64, ge=16)
    """Width of the rendered crops, pixels."""
    seed: int = Field(default=0, ge=0)
    """Seed of the world. Training seeds do not change it."""

    @model_validator(mode="after")
    def _settings_agree(self) -> SyntheticConfig:
        fewest, most = self.tracklet_frames
        if not 1 <= fewest <= most:
            raise ValueError(f"synthetic.tracklet_frames must be two ascending numbers from 1 on, not {fewest}, {most}")
        n_cameras = {"near_infrared": 6, "thermal": 2}.get(self.spectrum, self.n_cameras)
        if self.n_cameras != n_cameras:
            raise ValueError(f"synthetic.spectrum={self.spectrum} has {n_cameras} cameras; set n_cameras={n_cameras}")
        if self.spectrum == "thermal" and not self.tracklets_per_id and self.images_per_id % 2:
            raise ValueError("synthetic.spectrum=thermal takes images in pairs; set an even images_per_id")
        return self


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
    trial: int = Field(default=1, ge=1, le=10)
    """RegDB only: which of its ten splits. A model is trained on each, and papers report means over ten."""
    camera_level: int | None = Field(default=None, ge=0)
    """Layouts folder and imagefolder: the folder level below `root`/split that names the camera (0 = first; of
    imagefolder that is the identity's). None = no cameras."""
    camera_regex: str | None = None
    """Layouts folder and imagefolder: a regular expression, searched in the path below the split's folder; its first
    group names the camera."""
    pid_regex: str | None = None
    """Folder layout: the same for the identity, where crops have one (used for evaluation only)."""
    train_regex: str | None = None
    """Folder layout: a regular expression, searched in the path below `root`; files that it finds are the training
    split. Its groups `(?P<pid>…)` and `(?P<camera>…)` name identity and camera. None = splits are folders."""
    query_regex: str | None = None
    """The same for queries; goes with `gallery_regex`."""
    gallery_regex: str | None = None
    """The same for the gallery."""
    tracklets: bool = False
    """Market-1501 and folder layouts: images are frames of tracklets. In Market-1501 these are the images of one
    person, camera and sequence, by frame; in a folder, the images of each folder, by name (2 comes before 10). MARS has
    its tracklets in any case, lists have them in the column `tracklet`."""
    queries_in_gallery: bool = True
    """MARS only: the query tracklets also are in the gallery, as in the official lists; false leaves them out, as
    several public codes do."""
    attributes: str | None = None
    """Attributes of the people: `market_attribute.mat` or `duke_attribute.mat`. Each becomes a column `attr_NAME`."""
    age: Literal["adult_or_not", "four_way"] = "adult_or_not"
    """Market-1501's attribute `age`, which has four values where AM0BH has binary attributes: `adult_or_not` is 1 for
    adult and old, 0 for young and teenager; `four_way` keeps the four."""
    use_cameras: bool = True
    """False strips the camera ids, to train and evaluate as a user without them would."""
    holdout: float = Field(default=0, ge=0, lt=1)
    """Share of the identities in the training split that leave it and become query and gallery, to choose settings by;
    the data's own query and gallery are then not read. Which they are depends on no seed (docs/data.md)."""
    height: int = Field(default=256, ge=32)
    """Height that images are resized to, pixels (bicubic)."""
    width: int = Field(default=128, ge=16)
    """Width that images are resized to, pixels."""
    cache_mb: int = Field(default=4096, ge=0)
    """Memory for decoded and resized images, MB: for the training images, and as much again for query and gallery, in
    each process that reads them; 0 = off."""
    loader_threads: int = Field(default=2, ge=1)
    """Threads that decode and augment for one training worker."""
    max_megapixels: float = Field(default=100, gt=0)
    """Images of more pixels, millions, are refused before they are decoded: a small file may claim to be huge."""
    stretch_16_bit: bool = False
    """Grey images of 16 bits per channel: false reads the upper 8 bits, true stretches each image from its darkest
    to its brightest pixel, for thermal cameras whose values fill a small part of the range."""
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
        if self.tracklets and self.layout not in ("market1501", "folder"):
            raise ValueError(f"data.tracklets is for the layouts market1501 and folder, not for '{self.layout}'")
        if self.camera_level is not None and self.camera_regex is not None:
            raise ValueError("give data.camera_level or data.camera_regex, not both")
        return self

    @model_validator(mode="after")
    def _splits_are_complete(self) -> DataConfig:
        given = self.split_regexes()
        if given and self.layout != "folder":
            raise ValueError("data.train_regex, query_regex and gallery_regex are for data.layout=folder")
        if given and given.keys() not in ({"train"}, {"train", "query", "gallery"}):
            raise ValueError("give data.train_regex alone, or with both data.query_regex and data.gallery_regex")
        return self

    def split_regexes(self) -> dict[str, str]:
        """Split → its regular expression, of those that are given."""
        expressions = {"train": self.train_regex, "query": self.query_regex, "gallery": self.gallery_regex}
        return {split: text for split, text in expressions.items() if text is not None}
