"""Compare a tracker on a synthetic video with features of an exported model, with colour histograms and without.

    python benchmarks/tracking.py EXPORTED     (needs norfair: pip install --no-deps norfair filterpy)

People of the synthetic world walk through a frame, occlude each other, leave, and return. Detections are the boxes of
people who are at least half visible, with noise of two pixels. Thresholds are chosen on one video and evaluated on
three others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from norfair import Detection, Tracker
from scipy.optimize import linear_sum_assignment

import reid_ray
from reid_ray.config import SyntheticConfig
from reid_ray.data.synthetic import make_dataset
from reid_ray.data.views import resize
from reid_ray.encoder.adapters import for_tracker
from reid_ray.evaluation.baselines import colour_histogram

Array = npt.NDArray[np.float64]
Describe = Callable[[npt.NDArray[np.uint8], Array], npt.NDArray[np.float32]]

HEIGHT, WIDTH, CROP = 240, 480, (96, 48)
N_PEOPLE, N_FRAMES, WALK, PAUSE = 10, 240, 60, 40
TUNED_ON, SCORED_ON = 100, (101, 102, 103)
"""Seeds of the videos, which differ from those of training worlds."""


@dataclass(frozen=True)
class Frame:
    """One frame: uint8 BGR [HEIGHT, WIDTH, 3], boxes [N, 4] (left, top, right, bottom), and their people, [N]."""

    pixels: npt.NDArray[np.uint8]
    boxes: Array
    people: npt.NDArray[np.int64]


@cache
def video(seed: int, *, n_cameras: int = 1, n_frames: int = N_FRAMES) -> list[Frame]:
    """People who cross the frame on two walks each, with a pause between them.

    With two cameras, the other camera records the second walk, in other light and colours.
    """
    rng = np.random.default_rng(seed)
    world = SyntheticConfig(
        seed=seed,
        n_train_ids=N_PEOPLE,
        n_test_ids=0,
        n_cameras=n_cameras,
        tracklets_per_id=2,
        tracklet_frames=(WALK, WALK),
        height=CROP[0],
        width=CROP[1],
    )
    dataset = make_dataset(world)
    tracklets = dataset.table.column("tracklet").reshape(N_PEOPLE, 2, WALK)
    assert (tracklets == tracklets[..., :1]).all()
    crops = [dataset.images.read(path).numpy() for path in dataset.table.paths]
    crop_of = np.arange(len(crops)).reshape(N_PEOPLE, 2, WALK)
    starts = rng.integers(0, n_frames - 2 * WALK - PAUSE + 1, N_PEOPLE)
    tops = rng.integers(20, HEIGHT - CROP[0] - 10, (N_PEOPLE, 2))
    rightwards = rng.random((N_PEOPLE, 2)) < 0.5
    frames = []
    for f in range(n_frames):
        owner = np.full((HEIGHT, WIDTH), -1)
        pixels = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
        boxes = {}
        for person, walk in sorted(product(range(N_PEOPLE), range(2)), key=lambda each: tops[each]):  # far ones first
            step = f - starts[person] - walk * (WALK + PAUSE)
            if not 0 <= step < WALK:
                continue
            along = step / (WALK - 1) * (WIDTH - CROP[1])
            left = round(along if rightwards[person, walk] else WIDTH - CROP[1] - along)
            top = int(tops[person, walk])
            area = np.s_[top : top + CROP[0], left : left + CROP[1]]
            pixels[area] = crops[crop_of[person, walk, step]].transpose(1, 2, 0)[..., ::-1]
            owner[area] = person
            boxes[person] = (left, top, left + CROP[1], top + CROP[0])
        seen = [person for person in boxes if (owner == person).sum() >= 0.5 * CROP[0] * CROP[1]]
        shaken = [np.add(boxes[person], rng.normal(0, 2, 4)) for person in seen]
        corners = np.array(shaken).reshape(-1, 4).clip(0, (WIDTH, HEIGHT) * 2)
        frames.append(Frame(pixels, corners, np.array(seen, dtype=np.int64)))
    return frames


def histogram(image: npt.NDArray[np.uint8], boxes: Array) -> npt.NDArray[np.float32]:
    """Colour histograms of six stripes of each box."""
    rows = []
    for left, top, right, bottom in boxes.round().astype(int):
        crop = torch.from_numpy(image[top:bottom, left:right, ::-1].copy()).permute(2, 0, 1)
        rows.append(colour_histogram(resize(crop, 64, 32)[None])[0].numpy())
    return np.array(rows, dtype=np.float32)


def overlap(a: Array, b: Array) -> float:
    """Intersection over union of two boxes, [2, 2] each: left and top, right and bottom."""
    low, high = np.maximum(a[0], b[0]), np.minimum(a[1], b[1])
    shared = np.prod((high - low).clip(min=0))
    return float(shared / (np.prod(a[1] - a[0]) + np.prod(b[1] - b[0]) - shared))


def track(
    frames: list[Frame], features: list[Array], weight: float, reid_threshold: float
) -> Iterator[tuple[int, int]]:
    """(person, track) of each detection that belongs to a track.

    Args:
        features: features of each frame's boxes, unit rows.
        weight: weight of the appearance in the distance between a detection and a track; 0: position only.
        reid_threshold: largest distance at which a new track is merged with a lost one; 0: never.
    """

    def distance(detection: Detection, tracked) -> float:
        shared = overlap(detection.points, tracked.estimate)
        if shared == 0:
            return 10.0
        return 1 - shared + weight * float(1 - detection.embedding @ tracked.last_detection.embedding)

    def appearance(new, lost) -> float:
        old = [past.embedding for past in lost.past_detections] or [lost.last_detection.embedding]
        return float(min(1 - new.last_detection.embedding @ embedding for embedding in old))

    tracker = Tracker(
        distance_function=distance,
        distance_threshold=0.8,
        hit_counter_max=8,
        initialization_delay=2,
        past_detections_length=6,
        reid_distance_function=appearance if reid_threshold else None,
        reid_distance_threshold=reid_threshold,
        reid_hit_counter_max=120 if reid_threshold else None,
    )
    for frame, embeddings in zip(frames, features, strict=True):
        detections = [
            Detection(points=box.reshape(2, 2), embedding=embedding, data=int(person))
            for box, embedding, person in zip(frame.boxes, embeddings, frame.people, strict=True)
        ]
        for tracked in tracker.update(detections):
            if any(tracked.last_detection is detection for detection in detections):
                yield tracked.last_detection.data, tracked.id


def scores(pairs: list[tuple[int, int]], n_detections: int) -> tuple[float, int]:
    """IDF1 (Ristani et al., ECCV workshops 2016) and identity switches of (person, track) pairs in frame order."""
    if not pairs:
        return 0.0, 0
    people, tracks = (np.unique(each, return_inverse=True)[1] for each in zip(*pairs, strict=True))
    together = np.zeros((people.max() + 1, tracks.max() + 1))
    np.add.at(together, (people, tracks), 1)
    matched = together[linear_sum_assignment(-together)].sum()
    last: dict[int, int] = {}
    switches = 0
    for person, number in pairs:
        switches += last.get(person, number) != number
        last[person] = number
    return float(2 * matched / (len(pairs) + n_detections)), switches


def run(
    describe: Describe, n_cameras: int, weights: tuple[float, ...], thresholds: tuple[float, ...]
) -> tuple[str, list[float], list[int]]:
    """The best setting by IDF1 on one video, and its scores on the others."""

    def described(seed: int) -> tuple[list[Frame], list[Array]]:
        frames = video(seed, n_cameras=n_cameras)
        return frames, [describe(frame.pixels, frame.boxes) for frame in frames]

    def measure(frames: list[Frame], features: list[Array], setting: tuple[float, float]) -> tuple[float, int]:
        return scores(list(track(frames, features, *setting)), sum(len(frame.people) for frame in frames))

    tuning = described(TUNED_ON)
    best = max(product(weights, thresholds), key=lambda setting: measure(*tuning, setting)[0])
    found = [measure(*described(seed), best) for seed in SCORED_ON]
    return f"weight {best[0]:g}, threshold {best[1]:g}", [idf1 for idf1, _ in found], [n for _, n in found]


def compare(exported: str) -> None:
    none: Describe = lambda image, boxes: np.zeros((len(boxes), 1), np.float32)  # noqa: E731
    encoder = for_tracker(reid_ray.load_encoder(exported))
    weights, thresholds = (0.0, 0.5, 1.0, 2.0), (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
    print("| cameras | features | IDF1 | identity switches | chosen |\n|---|---|---|---|---|")
    for n_cameras in (1, 2):
        for name, measure in (
            ("none: position only", partial(run, none, n_cameras, (0.0,), (0.0,))),
            ("colour histogram", partial(run, histogram, n_cameras, weights, thresholds)),
            ("exported model", partial(run, encoder, n_cameras, weights, thresholds)),
        ):
            chosen, idf1, switches = measure()
            each = ", ".join(f"{value:.1%}" for value in idf1)
            print(f"| {n_cameras} | {name} | {np.mean(idf1):.1%} ({each}) | {sum(switches)} | {chosen} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", help="folder of an exported model")
    compare(parser.parse_args().exported)


if __name__ == "__main__":
    main()
