"""The stages of a search, each with a study of its own: the search, more seeds for the best, the comparison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reid_ray.config import Config, Search
from reid_ray.tuning.request import Objective, Request, SearchDirectory, final_base, trial_base
from reid_ray.tuning.spaces import Space, Values, with_values

FRESH_SEEDS = 1000
"""Distance of the comparison's seeds from those that a winner may have been chosen by."""


@dataclass(frozen=True)
class Phase:
    """Trials that are alike but for their values.

    Attributes:
        name: of the stage and its study.
        base: what a trial runs, but for its values.
        folder: of the run directories.
        space: what trials differ in; `seed` may be among it.
        objectives: what they are told by.
        stop_early: trials that fall behind are stopped.
        sweep: see `Request`.
    """

    name: str
    base: Config
    folder: Path
    space: Space
    objectives: tuple[Objective, ...]
    stop_early: bool = False
    sweep: tuple[str, ...] = ()

    def config_of(self, values: Values) -> Config:
        """The run of a trial; equal values and seeds have one run directory, and so are never trained twice."""
        config = with_values(self.base, values)
        return config.model_copy(update={"name": self.id_of(values), "output": str(self.folder)})

    def id_of(self, values: Values) -> str:
        """A short name for values and seed."""
        return run_id(values, self.base.seed)


def run_id(values: Values, seed: int) -> str:
    """A short name for values and seed; a `seed` among the values goes before the other."""
    known = {"seed": seed, **values}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]


def search_phase(request: Request) -> Phase:
    """The search itself; all its trials have the recipe's seed."""
    return Phase(
        "search",
        trial_base(request),
        SearchDirectory.of(request).trials,
        request.space,
        request.objectives,
        request.stop_early,
        request.sweep,
    )


def seed_phase(request: Request, points: Sequence[Values], n_seeds: int) -> Phase:
    """Points again with seeds that the search has not seen."""
    seeds = range(request.config.seed + 1, request.config.seed + 1 + n_seeds)
    folder = SearchDirectory.of(request).trials
    space = _choices(points, seeds)
    return Phase(_named("seeds", space), trial_base(request), folder, space, request.objectives)


def final_phase(request: Request, points: Sequence[Values], n_seeds: int) -> Phase:
    """Points as they would be used: on all training images, by mAP on the test split, with seeds of their own."""
    first = request.config.seed + FRESH_SEEDS
    space = _choices(points, range(first, first + n_seeds))
    return Phase(_named("final", space), final_base(request), SearchDirectory.of(request).final, space, ("map",))


def seeded(points: Iterable[Values], stage: Phase) -> list[Values]:
    """Each point with each seed of a stage, seed by seed, so that all points have had as many at any time."""
    chosen = list(points)
    return [{**point, "seed": seed} for seed in stage.space["seed"].choices for point in chosen]


def _named(stage: str, space: Space) -> str:
    """A study has one list of choices for good; with others it is another study, on the same runs."""
    return f"{stage}-{hashlib.sha256(str(space).encode()).hexdigest()[:8]}"


def _choices(points: Sequence[Values], seeds: Iterable[int]) -> Space:
    """A space that has these points, wherever the search's own ranges end."""
    space = {key: Search(choices=tuple(dict.fromkeys(point[key] for point in points))) for key in points[0]}
    return {**space, "seed": Search(choices=tuple(seeds))}
