"""The phases of a search, each with its own study: the search, more seeds for the best, the comparison."""

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
"""Offset of the comparison's seeds, so that they differ from the seeds that selected the winner."""


@dataclass(frozen=True)
class Phase:
    """Trials that differ only in their values.

    Attributes:
        name: of the phase and its study.
        base: configuration of a trial without its values.
        folder: parent of the run directories.
        space: the values that trials vary; may include `seed`.
        objectives: scores to optimise.
        stop_early: stop trials that fall behind.
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
        """The run of a trial. Equal values and seeds share a run directory, so they are never trained twice."""
        config = with_values(self.base, values)
        return config.model_copy(update={"name": self.id_of(values), "output": str(self.folder)})

    def id_of(self, values: Values) -> str:
        """A short name for values and seed."""
        return run_id(values, self.base.seed)


def run_id(values: Values, seed: int) -> str:
    """A short name for values and seed; a `seed` in `values` takes precedence."""
    known = {"seed": seed, **values}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]


def search_phase(request: Request) -> Phase:
    """The search itself; all trials have the recipe's seed."""
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
    """Points with new seeds, which the search has not used."""
    seeds = range(request.config.seed + 1, request.config.seed + 1 + n_seeds)
    folder = SearchDirectory.of(request).trials
    space = _choices(points, seeds)
    return Phase(_named("seeds", space), trial_base(request), folder, space, request.objectives)


def final_phase(request: Request, points: Sequence[Values], n_seeds: int) -> Phase:
    """Points trained on all training images and evaluated by mAP on the test split, with new seeds."""
    first = request.config.seed + FRESH_SEEDS
    space = _choices(points, range(first, first + n_seeds))
    return Phase(_named("final", space), final_base(request), SearchDirectory.of(request).final, space, ("map",))


def seeded(points: Iterable[Values], stage: Phase) -> list[Values]:
    """Each point with each seed of a phase, seed by seed, so that all points progress equally."""
    chosen = list(points)
    return [{**point, "seed": seed} for seed in stage.space["seed"].choices for point in chosen]


def _named(stage: str, space: Space) -> str:
    """A study's list of choices is fixed; other choices need another study, on the same runs."""
    return f"{stage}-{hashlib.sha256(str(space).encode()).hexdigest()[:8]}"


def _choices(points: Sequence[Values], seeds: Iterable[int]) -> Space:
    """A space that contains exactly these values, regardless of the ranges of the search."""
    space = {key: Search(choices=tuple(dict.fromkeys(point[key] for point in points))) for key in points[0]}
    return {**space, "seed": Search(choices=tuple(seeds))}
