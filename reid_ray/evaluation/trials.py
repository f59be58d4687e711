"""Complete protocols of SYSU-MM01 and RegDB: sampled galleries, and means over ten trials."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np

from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.evaluation.arguments import Array
from reid_ray.evaluation.cross_modal import INFRARED_INDOORS, SAME_ROOM, regdb, sysu_mm01
from reid_ray.evaluation.ranking import RankMetrics
from reid_ray.evaluation.tables import missing_part
from reid_ray.io.paths import Location, as_readable
from reid_ray.types import UNKNOWN, IntArray

Search = Literal["all", "indoor"]

N_TRIALS = 10

SEARCH_CAMERAS: dict[Search, tuple[int, ...]] = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
"""Visible cameras of SYSU-MM01, numbered as in the dataset, whose images are the gallery."""

INFRARED_CAMERAS = (3, 6)

COUNTS = ("n_queries", "n_skipped")

Permutations = Mapping[tuple[int, int], IntArray]
"""(camera 1 … 6, pid) → int64 [trials, images], the numbers of that person's images in a random order per trial."""


@dataclass(frozen=True, eq=False)
class TrialMetrics:
    """Retrieval metrics over several trials.

    Attributes:
        trials: metrics of each trial, in order.
    """

    trials: tuple[RankMetrics, ...]

    def mean(self) -> dict[str, float]:
        """Means over trials of the entries of `RankMetrics.as_dict`."""
        return {name: float(np.mean(values)) for name, values in self._columns().items()}

    def deviation(self) -> dict[str, float]:
        """Standard deviations over trials (n − 1), 0 for a single trial."""
        degrees = min(1, len(self.trials) - 1)
        return {name: float(np.std(values, ddof=degrees)) for name, values in self._columns().items()}

    def as_dict(self) -> dict[str, float | int]:
        """Plain numbers for logs: means under their names, deviations under `NAME_std`, and counts of queries.

        Queries are the same in all trials of SYSU-MM01.
        """
        means, deviations = self.mean(), self.deviation()
        counts = {name: means.pop(name) for name in COUNTS}
        spread = {f"{name}_std": value for name, value in deviations.items() if name not in COUNTS}
        return {**means, **spread, **{name: round(count) for name, count in counts.items()}}

    def _columns(self) -> dict[str, list[float]]:
        rows = [trial.as_dict() for trial in self.trials]
        return {name: [float(row[name]) for row in rows] for name in rows[0]}


def evaluate_sysu_mm01(
    q_features: Array,
    g_features: Array,
    table: ImageTable,
    *,
    search: Search = "all",
    shots: int = 1,
    n_trials: int = N_TRIALS,
    permutations: Permutations | None = None,
) -> TrialMetrics:
    """SYSU-MM01's protocol: all infrared queries against the galleries of ten trials.

    Args:
        q_features: [Q, D] L2-normalised, rows in the order of `table.split("query")`: all infrared test images.
        g_features: [G, D] L2-normalised, of `table.split("gallery")`: all visible test images, from which galleries
            are sampled.
        table: with cameras from 0.
        search: cameras of the gallery: `all` 1, 2, 4, 5 or `indoor` 1, 2. The queries are the same.
        shots: images per person and camera: 1 (single-shot) or 10 (multi-shot).
        n_trials: number of galleries.
        permutations: as in `sysu_galleries`.

    Raises:
        DataError: no images by these cameras in the gallery, no query with a match, features that do not fit.
    """
    query, gallery = table.split("query"), table.split("gallery")
    drawn = sysu_galleries(gallery, search=search, shots=shots, n_trials=n_trials, permutations=permutations)
    if len(g_features) != len(gallery):
        raise DataError(f"{gallery.name} has {len(gallery)} images and {len(g_features)} features; pass one per image.")
    return TrialMetrics(
        tuple(
            sysu_mm01(
                q_features,
                g_features[rows],
                query.pids,
                gallery.pids[rows],
                query.camids + 1,
                gallery.camids[rows] + 1,
            )
            for rows in drawn
        )
    )


def sysu_evaluable(table: ImageTable, *, search: Search = "all") -> str | None:
    """None if `evaluate_sysu_mm01` can evaluate the table, else a one-line reason."""
    reason = missing_part(table)
    if reason is not None:
        return reason
    query, gallery = table.split("query"), table.split("gallery")
    for side, name, cameras in ((query, "query", INFRARED_CAMERAS), (gallery, "gallery", SEARCH_CAMERAS["all"])):
        strange = set((side.camids[side.camids != UNKNOWN] + 1).tolist()) - set(cameras)
        if strange or (side.camids == UNKNOWN).any():
            which = f"camera {min(strange)}" if strange else "no camera"
            return (
                f"{table.name} cannot be evaluated as SYSU-MM01: {name} images are by cameras "
                f"{', '.join(map(str, cameras))} there, and it has some of {which}."
            )
    answers = set(zip(gallery.pids.tolist(), (gallery.camids + 1).tolist(), strict=True))
    for pid, camera in set(zip(query.pids.tolist(), (query.camids + 1).tolist(), strict=True)):
        ignored = (SAME_ROOM,) if camera == INFRARED_INDOORS else ()
        if pid != UNKNOWN and any((pid, c) in answers for c in SEARCH_CAMERAS[search] if c not in ignored):
            return None
    return f"{table.name} cannot be evaluated: the gallery of {search} search holds no image of a query's person."


def regdb_evaluable(table: ImageTable) -> str | None:
    """None if `evaluate_regdb` can evaluate the table, else a one-line reason."""
    reason = missing_part(table)
    if reason is not None:
        return reason
    known = [set(table.split(name).pids.tolist()) - {UNKNOWN} for name in ("query", "gallery")]
    if not set.intersection(*known):
        return f"{table.name} cannot be evaluated: the gallery holds no image of a query's person."
    return None


def sysu_galleries(
    table: ImageTable,
    *,
    search: Search = "all",
    shots: int = 1,
    n_trials: int = N_TRIALS,
    permutations: Permutations | None = None,
) -> list[IntArray]:
    """The galleries of SYSU-MM01's trials, as rows of a table of all visible test images.

    A gallery has `shots` images (or all, if there are fewer) of each person by each camera of the search that recorded
    them: in single-shot mode 301 images in all search and 112 in indoor search. Rows are by person, then by camera.

    Without `permutations`, galleries are sampled as for most published numbers since 2020: trial t seeds Python's
    generator with t and samples from a person's files in sorted order, person by person in ascending order, camera by
    camera. There is no common code for several shots; they are one `random.sample`. With `permutations`, galleries are
    the authors': the first `shots` numbers of row t (`read_sysu_permutations`). Means over ten trials of the two agree
    within their standard deviation.

    Args:
        table: all visible test images, with cameras from 0; other cameras' images are ignored.
        search: `all` or `indoor`.
        shots: 1 or 10 in the dataset's protocol.
        n_trials: number of galleries.
        permutations: fixed draws.

    Raises:
        DataError: no image by these cameras; an image that the permutations name and the table lacks, or the reverse.
    """
    groups = _by_person_and_camera(table, SEARCH_CAMERAS[search])
    if not groups:
        cameras = ", ".join(map(str, SEARCH_CAMERAS[search]))
        raise DataError(f"{table.name} has no images by the cameras {cameras} of SYSU-MM01's {search} search.")
    if permutations is not None:
        return [_given_gallery(table, groups, permutations, trial, shots) for trial in range(n_trials)]
    return [_drawn_gallery(groups, random.Random(trial), shots) for trial in range(n_trials)]


def read_sysu_permutations(path: Location) -> Permutations:
    """The authors' `rand_perm_cam.mat`: a cell per camera, in it a cell per pid, in it a matrix [trials, images].

    Raises:
        DataError: no such file, or another format.
    """
    # Slow to import, and needed for this file only.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        cameras = loadmat(as_readable(path))["rand_perm_cam"].ravel()
        return {
            (camera, pid): _matrix(numbers)
            for camera, people in enumerate(cameras, start=1)
            for pid, numbers in enumerate(people.ravel(), start=1)
            if numbers.size
        }
    except (OSError, KeyError, ValueError, TypeError, AttributeError, NotImplementedError, MatReadError) as error:
        raise DataError(
            f"Cannot read {path} as SYSU-MM01's rand_perm_cam.mat ({error}); take the file of the dataset's authors."
        ) from error


def evaluate_regdb(q_features: Array, g_features: Array, table: ImageTable) -> dict[Literal["v2t", "t2v"], RankMetrics]:
    """RegDB's protocol for the model of one trial, in both directions.

    Each of the ten trials has its own split and its own model; `TrialMetrics` over the ten gives the numbers that
    papers report. Most papers default to v2t, visible queries and a thermal gallery.

    Args:
        q_features: [Q, D] L2-normalised, of `table.split("query")`: the visible test images.
        g_features: [G, D] L2-normalised, of `table.split("gallery")`: the thermal ones.
        table: of one trial.

    Raises:
        DataError: as `rank_metrics`.
    """
    query, gallery = table.split("query"), table.split("gallery")
    return {
        "v2t": regdb(q_features, g_features, query.pids, gallery.pids),
        "t2v": regdb(g_features, q_features, gallery.pids, query.pids),
    }


def _matrix(numbers: IntArray) -> IntArray:
    if numbers.ndim != 2:
        raise ValueError(f"a permutation has {numbers.ndim} dimensions")
    return numbers.astype(np.int64)


def _by_person_and_camera(table: ImageTable, cameras: Sequence[int]) -> dict[tuple[int, int], list[int]]:
    """(pid, camera from 1) → rows in the order of their paths; by pid, then by camera, both ascending."""
    paths, pids, camids = table.paths, table.pids.tolist(), (table.camids + 1).tolist()
    groups: dict[tuple[int, int], list[int]] = {}
    for row in sorted(range(len(table)), key=lambda row: (pids[row], camids[row], paths[row])):
        if camids[row] in cameras and pids[row] != UNKNOWN:
            groups.setdefault((pids[row], camids[row]), []).append(row)
    return groups


def _drawn_gallery(groups: Mapping[tuple[int, int], list[int]], rng: random.Random, shots: int) -> IntArray:
    gallery: list[int] = []
    for rows in groups.values():
        gallery += [rng.choice(rows)] if shots == 1 else rng.sample(rows, min(shots, len(rows)))
    return np.array(gallery, dtype=np.int64)


def _given_gallery(
    table: ImageTable,
    groups: Mapping[tuple[int, int], list[int]],
    permutations: Permutations,
    trial: int,
    shots: int,
) -> IntArray:
    paths = table.paths
    gallery = []
    for (pid, camera), rows in groups.items():
        row_of_number = {int(PurePath(paths[row]).stem): row for row in rows}
        numbers = permutations.get((camera, pid), np.empty((0, 0), np.int64))
        if sorted(numbers[trial].tolist() if trial < len(numbers) else []) != sorted(row_of_number):
            raise DataError(
                f"The permutations of SYSU-MM01 do not name the images of person {pid} by camera {camera} in trial "
                f"{trial + 1}; they belong to a different copy of the dataset than {table.name}."
            )
        gallery += [row_of_number[int(number)] for number in numbers[trial, :shots]]
    return np.array(gallery, dtype=np.int64)
