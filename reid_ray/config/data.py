"""Datasets, and the views of images in training."""

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
    """Synthetic people, cameras and images, rendered instead of downloaded."""

    n_train_ids: int = Field(default=60, ge=1)
    """People in the training split."""
    n_test_ids: int = Field(default=40, ge=0)
    """Other people, in query and gallery."""
    n_cameras: int = Field(default=6, ge=1)
    """Cameras, each with its own place, light, optics and colour response."""
    images_per_id: int = Field(default=16, ge=1)
    """Images of each person over all cameras, before the split in query and gallery. Not used with tracklets."""
    tracklets_per_id: int = Field(default=0, ge=0)
    """Tracklets of each person over all cameras; 0 = images from short walks, `images_per_id` in total. A tracklet is a
    video of one walk: the person moves evenly, the box shakes, and other people pass in front of the camera."""
    tracklet_frames: tuple[int, int] = (15, 40)
    """Minimum and maximum number of frames of a tracklet."""
    spectrum: Spectrum = "visible"
    """Spectrum of the cameras. `near_infrared` resembles SYSU-MM01: six cameras, 1 … 6 in keys, of which 3 (next to
    camera 2) and 6 are near-infrared; infrared test images are queries, visible ones gallery. `thermal` resembles
    RegDB: a visible camera 1 and a thermal camera 2 at one place that take each picture at the same moment; visible
    test images are queries, thermal ones gallery. Set `n_cameras` to 6 or 2."""
    mesh_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the error in each joint angle of the body meshes, radians, like that of a mesh estimator.
    Images do not change."""
    height: int = Field(default=128, ge=32)
    """Height of the rendered crops, pixels."""
    width: int = Field(default=64, ge=16)
    """Width of the rendered crops, pixels."""
    seed: int = Field(default=0, ge=0)
    """Seed of the synthetic data. The training seed does not change it."""

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


class MeshConfig(Section):
    """Body meshes of the images, for methods that rotate people (GCL). Lists name them in the column `mesh`."""

    rendered: str | None = None
    """Folder of meshes rendered by other software: `train/render/NAME` for an image's own view, `test/render/NAME`
    for query and gallery, and `render_45/NAME` … `render_315/NAME` next to them."""
    faces_file: str | None = None
    """File with the faces of all meshes whose files have none."""
    body_model: str | None = None
    """SMPL body model (`.npz`) for meshes given as HMR's 85 numbers. It is licensed and not part of this package."""
    fit_missing: bool = False
    """Replace a missing mesh by an average body, fitted to the image. It ignores posture: use it to try a method on
    images without meshes, not for results."""


class StrongViewConfig(Section):
    """The augmented view (thesis ch. 6; released code)."""

    pad: int = Field(default=10, ge=0)
    """Zero padding on each side before the random crop, pixels."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    blur: float = Field(default=0.5, ge=0, le=1)
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, pixels."""
    erase: float = Field(default=0.6, ge=0, le=1)
    """Probability of random erasing. The paper says 0.5; the released code, which produced the tables, uses 0.6."""
    erase_area: tuple[float, float] = (0.02, 0.4)
    """Range of the erased share of the image area."""
    erase_aspect: tuple[float, float] = (0.3, 3.3)
    """Range of the erased rectangle's aspect ratio, height / width."""


class DataConfig(Section):
    """The images: layout, location, size, and available metadata."""

    layout: Layout = "synthetic"
    """Layout of the data on disk; `synthetic` needs no disk."""
    root: str | None = None
    """Folder or file of the data, or a URI in an object store, as s3://bucket/packed; unused by `synthetic`."""
    version: Literal["V1", "V2"] | None = None
    """MSMT17 only: V1, or V2 with masked faces. Their results are not comparable, so the version is recorded."""
    detected: bool = True
    """CUHK03-np only: detected boxes (true) or labelled boxes (false)."""
    trial: int = Field(default=1, ge=1, le=10)
    """RegDB only: which of its ten splits. Papers train a model on each and report means over ten."""
    camera_level: int | None = Field(default=None, ge=0)
    """Layouts folder and imagefolder: the folder level below `root`/split that is the camera (0 = first; in imagefolder
    the first level is the identity). Null: no cameras."""
    camera_regex: str | None = None
    """Layouts folder and imagefolder: a regular expression, searched in the path below the split folder, whose first
    group is the camera."""
    pid_regex: str | None = None
    """Folder layout: the same for the identity, if file names contain it (used for evaluation only)."""
    train_regex: str | None = None
    """Folder layout: a regular expression, searched in the path below `root`, that selects the training split. Its
    groups `(?P<pid>…)` and `(?P<camera>…)` are identity and camera. Null: splits are folders."""
    query_regex: str | None = None
    """The same for queries; requires `gallery_regex`."""
    gallery_regex: str | None = None
    """The same for the gallery; requires `query_regex`."""
    tracklets: bool = False
    """Market-1501 and folder layouts: treat images as frames of tracklets. In Market-1501 a tracklet is the images of
    one person, camera and sequence, ordered by frame; in a folder, the images of one folder, ordered by name (2 before
    10). MARS always has tracklets; lists have them in the column `tracklet`."""
    queries_in_gallery: bool = True
    """MARS only: query tracklets are also in the gallery, as in the official lists; false removes them, as several
    public codes do."""
    attributes: str | None = None
    """Attribute annotation: `market_attribute.mat` or `duke_attribute.mat`. Each attribute becomes a column
    `attr_NAME`."""
    age: Literal["adult_or_not", "four_way"] = "adult_or_not"
    """Attribute `age` of Market-1501, which has four values, while AM0BH uses binary attributes: `adult_or_not` is 1
    for adult and old, 0 for young and teenager; `four_way` keeps all four."""
    use_cameras: bool = True
    """False removes camera labels, for training and evaluation without them."""
    holdout: float = Field(default=0, ge=0, lt=1)
    """Share of the training identities that are held out as query and gallery, to select settings; the query and
    gallery of the dataset are then not read. The selection does not depend on any seed (docs/data.md)."""
    height: int = Field(default=256, ge=32)
    """Image height after resizing, pixels (bicubic)."""
    width: int = Field(default=128, ge=16)
    """Image width after resizing, pixels."""
    cache_mb: int = Field(default=4096, ge=0)
    """Memory for decoded and resized images, MB: for training images, and the same again for query and gallery, in each
    process that reads them; 0 = off."""
    loader_threads: int = Field(default=2, ge=1)
    """Threads that decode and augment, per training worker."""
    max_megapixels: float = Field(default=100, gt=0)
    """Limit in millions of pixels; larger images are rejected before decoding, because a small file can claim any
    size."""
    stretch_16_bit: bool = False
    """16-bit grey images: false reads the upper 8 bits; true stretches each image from its darkest to its brightest
    pixel, for thermal cameras whose values use a small part of the range."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """Synthetic data, if `layout` is `synthetic`."""
    strong: StrongViewConfig = StrongViewConfig()
    """The strong view of training."""
    meshes: MeshConfig = MeshConfig()
    """Body meshes."""

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
        """Split → its regular expression, for the given ones."""
        expressions = {"train": self.train_regex, "query": self.query_regex, "gallery": self.gallery_regex}
        return {split: text for split, text in expressions.items() if text is not None}
