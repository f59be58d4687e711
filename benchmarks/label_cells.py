"""Cells of the label-free test bed: sets of features with identities, from files and from synthetic worlds.

A world is one model on one dataset, or one way to generate features; a cell is a subset of its images. The worlds of
`synthetic_cells` are features, not images: vectors of people, shifts of cameras and noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from reid_ray.types import UNKNOWN, FloatArray, IntArray

BoolArray = np.ndarray

CAMERA_SETS = ((0, 1), (2, 4), (3, 5), (0, 5), (0, 1, 2), (3, 4, 5), (0, 2, 4))
"""Pairs and triples of Market-1501's six cameras, from 0."""

DIMENSIONS = 128


@dataclass(frozen=True)
class Cell:
    """Features and their identities.

    Attributes:
        world: source of the features; scores are never judged on the world on which they were selected.
        features: float32 [N, D], L2-normalised.
        camids, pids, tracklets: int64 [N].
    """

    world: str
    name: str
    features: FloatArray
    camids: IntArray
    pids: IntArray
    tracklets: IntArray

    def __str__(self) -> str:
        return f"{self.world}, {self.name}"

    def subset(self, name: str, mask: BoolArray) -> Cell:
        kept = (array[mask] for array in (self.features, self.camids, self.pids, self.tracklets))
        return Cell(self.world, name, *kept)

    def without_cameras(self, name: str) -> Cell:
        return replace(self, name=name, camids=np.full_like(self.camids, UNKNOWN))


def file_cells(files: Sequence[Path], seed: int = 0) -> Iterator[Cell]:
    """Subsets of the training images of files that `reid-ray extract` wrote."""
    for file in files:
        rows = pq.read_table(file.with_suffix(".parquet"))
        train = np.array(rows["split"].to_pylist()) == "train"
        features = np.load(file, mmap_mode="r")[train].astype(np.float32)
        camids, pids = (rows[name].to_numpy()[train] for name in ("camid", "pid"))
        known = "tracklet" in rows.column_names
        tracklets = rows["tracklet"].to_numpy()[train] if known else np.full_like(pids, UNKNOWN)
        whole = Cell(file.stem, "all", features, camids, pids, tracklets)
        yield from subsets(whole, np.random.default_rng(seed))


def subsets(whole: Cell, rng: np.random.Generator) -> Iterator[Cell]:
    """Cells of a world, by cameras, people and size."""
    yield whole
    for cameras in CAMERA_SETS:
        mask = np.isin(whole.camids, cameras)
        yield whole.subset(f"cameras {' '.join(str(camera + 1) for camera in cameras)}", mask)
    yield whole.subset("camera 1", whole.camids == 0)
    people = rng.permutation(np.unique(whole.pids))
    quarters = [np.isin(whole.pids, part) for part in np.array_split(people, 4)]
    yield whole.subset("quarter of the people", quarters[0])
    yield whole.subset("another quarter", quarters[1])
    yield whole.subset("quarter, cameras unknown", quarters[2]).without_cameras("quarter, cameras unknown")
    yield whole.subset("60 people", np.isin(whole.pids, people[:60]))
    yield whole.subset("a third of the images", rng.random(len(whole.pids)) < 1 / 3)


@dataclass(frozen=True)
class World:
    """A feature-level synthetic world.

    Attributes:
        noise: norm of the noise of an image, next to people of norm 1; between people it varies by `noise_spread`
            (standard deviation of its logarithm).
        shift: norm of the offset that all images of a camera share.
        view: norm of the offset that the images of one person at one camera share.
        lookalikes: people per group; its members share the part `alike` of their vectors.
        tail: exponent of the images per person; 0: about the same for all.
        distractors: share of images of people with a single image.
    """

    name: str
    n_people: int = 150
    n_cameras: int = 6
    images: int = 16
    noise: float = 1.0
    noise_spread: float = 0.2
    shift: float = 0.5
    view: float = 0.5
    lookalikes: int = 4
    alike: float = 0.6
    tail: float = 0.0
    distractors: float = 0.0


WORLDS = (
    World("easy, 6 cameras", noise=0.8),
    World("hard, 6 cameras", noise=1.4, noise_spread=0.4),
    World("2 cameras", n_cameras=2, images=10),
    World("2 cameras, large shift", n_cameras=2, images=12, shift=1.2, view=0.9, noise=0.9),
    World("2 cameras, clusters of one camera", n_cameras=2, images=20, shift=1.5, view=1.3, noise=0.8),
    World("3 cameras, hard", n_cameras=3, noise=1.3, view=0.8),
    World("4 cameras, large shift", n_cameras=4, shift=1.3, view=0.9, noise=0.9),
    World("8 cameras", n_cameras=8, images=20),
    World("12 cameras", n_cameras=12, images=24, view=0.7),
    World("12 cameras, hard", n_cameras=12, images=24, view=1.0, noise=1.3, shift=1.0),
    World("one camera", n_cameras=1, images=8, shift=0.0),
    World("lookalikes", lookalikes=10, alike=0.8, noise=1.0),
    World("lookalikes, hard", lookalikes=10, alike=0.8, noise=1.3, view=0.8),
    World("few images", images=5, n_people=400),
    World("few images, hard", images=5, n_people=400, noise=1.3, view=0.7),
    World("many images", images=50, n_people=60, noise=1.2),
    World("long tail", n_people=250, tail=0.5, images=14),
    World("long tail, hard", n_people=250, tail=0.7, images=12, noise=1.4, view=0.8),
    World("distractors", distractors=0.3),
    World("distractors, hard", distractors=0.5, noise=1.3, view=0.8),
    World("uneven noise", noise=1.1, noise_spread=0.7),
    World("large", n_people=500, images=14, noise=1.2, view=0.7),
)


def synthetic_cells(worlds: Sequence[World] = WORLDS, seed: int = 0) -> Iterator[Cell]:
    """One cell of each world; for the selection of scores, a family of worlds counts as one world."""
    for at, world in enumerate(worlds):
        yield make_cell(world, np.random.default_rng((seed, at)))


def make_cell(world: World, rng: np.random.Generator) -> Cell:
    """Generate the features of a world; the images of a person by one camera are a tracklet."""
    n_people = world.n_people
    groups = directions(rng, -(-n_people // world.lookalikes))
    own = directions(rng, n_people)
    group_of = np.arange(n_people) // world.lookalikes
    people = np.sqrt(1 - world.alike**2) * own + world.alike * groups[group_of]
    popularity = (1 + np.arange(n_people)) ** -world.tail
    counts = np.maximum(1, rng.poisson(world.images * n_people * popularity / popularity.sum()))
    pids = np.repeat(np.arange(n_people), counts)
    n_once = int(world.distractors * len(pids) / (1 - world.distractors))
    people = np.concatenate([people, directions(rng, n_once)])
    pids = np.concatenate([pids, n_people + np.arange(n_once)])
    n_seen_by = rng.integers(1, world.n_cameras + 1, len(people))
    order = np.argsort(rng.random((len(people), world.n_cameras)), axis=1)
    camids = order[pids, rng.integers(0, n_seen_by[pids])]
    shifts = world.shift * directions(rng, world.n_cameras)
    views = world.view * directions(rng, len(people) * world.n_cameras).reshape(len(people), world.n_cameras, -1)
    scale = world.noise * np.exp(world.noise_spread * rng.standard_normal(len(people)))
    noise = scale[pids, None] * directions(rng, len(pids))
    features = (people[pids] + shifts[camids] + views[pids, camids] + noise).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    camids, pids = camids.astype(np.int64), pids.astype(np.int64)
    return Cell("synthetic features", world.name, features, camids, pids, pids * world.n_cameras + camids)


def directions(rng: np.random.Generator, n: int) -> FloatArray:
    """Random unit vectors [n, DIMENSIONS]."""
    vectors = rng.standard_normal((n, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
