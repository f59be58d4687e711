"""Results of a search so far, read from its journal; writes trials.parquet and best.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pyarrow as pa

from reid_ray.config import Config, dump_config
from reid_ray.errors import RunError
from reid_ray.io.files import atomic_write_bytes, parquet_bytes
from reid_ray.labels.objective import is_separated
from reid_ray.tuning.request import METRICS, Request, SearchDirectory, read_request
from reid_ray.tuning.spaces import Values, own_values, with_values
from reid_ray.tuning.study import Row, best_first, open_storage, read_rows


@dataclass(frozen=True)
class Repeated:
    """The same values with several seeds.

    Attributes:
        values: without the seed.
        scores: of the first objective, by seed, for trials that have one.
        n_runs: number of started trials.
    """

    values: Values
    scores: dict[int, float]
    n_runs: int

    @property
    def mean(self) -> float:
        return fmean(self.scores.values()) if self.scores else 0.0


@dataclass(frozen=True)
class Results:
    """A search, finished or not.

    Attributes:
        rows: trials of the search phase.
        repeats: the best trials with more seeds, best mean first.
        final: winner and recipe with new seeds on the test split, in this order.
        further: rows of the phases `seeds` and `final`.
    """

    request: Request
    rows: list[Row]
    repeats: list[Repeated]
    final: list[Repeated]
    further: dict[str, list[Row]]

    @property
    def directory(self) -> SearchDirectory:
        return SearchDirectory.of(self.request)

    @property
    def own(self) -> Values:
        """The recipe's values of the keys that the winner sets."""
        return self._own_of(self.winner or self.request.space)

    @property
    def winner(self) -> Values | None:
        """The best trial by the first objective, or by the mean if repeated with more seeds; None without any.

        The recipe's own values if the label-free objective does not separate the best trial from them.
        """
        best = best_first(self.rows)[:1]
        if any(point.values == row.point for point in self.repeats for row in best) and self.repeats[0].scores:
            return self.repeats[0].values
        if not best:
            return None
        return self._own_of(best[0].point) if self.is_undecided else best[0].point

    @property
    def is_undecided(self) -> bool:
        """Whether the best trial and the recipe's differ by less than the label-free objective can tell.

        Scores of more seeds, and scores by identities, decide by themselves.
        """
        best = best_first(self.rows)[:1]
        if self.request.by_labels or self.repeats or not best:
            return False
        own = [row for row in self.rows if row.ranked and row.values == self._own_of(row.values)]
        return any(row.id != best[0].id and not is_separated(best[0].scores[0], row.scores[0]) for row in own)

    def _own_of(self, keys: Iterable[str]) -> Values:
        return own_values(self.request.config, list(keys))


def read_results(path: Path) -> Results:
    """Read a search directory; `RunError` if it is not one."""
    request = read_request(path)
    journal, seed = SearchDirectory(path).journal, request.config.seed
    rows: dict[str, list[Row]] = {}
    if journal.exists():
        storage = open_storage(journal)
        for name in optuna.get_all_study_names(storage):  # oldest first
            rows[name] = read_rows(optuna.load_study(study_name=name, storage=storage), seed)
    newest = {name.partition("-")[0]: found for name, found in rows.items()}
    repeats = sorted(repeated(newest.get("seeds", [])), key=lambda point: -point.mean)
    further: dict[str, list[Row]] = {stage: newest[stage] for stage in ("seeds", "final") if stage in newest}
    return Results(request, newest.get("search", []), repeats, repeated(newest.get("final", [])), further)


def repeated(rows: Sequence[Row]) -> list[Repeated]:
    """Group rows that differ only in the seed, in the order of their first run."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(sorted(_without_seed(row).items())), []).append(row)
    return [
        Repeated(
            _without_seed(group[0]),
            {int(str(row.values["seed"])): row.scores[0] for row in group if row.scores},
            len(group),
        )
        for group in groups.values()
    ]


def best_config(results: Results) -> Config:
    """The recipe with the winner's values, under a new name.

    Raises:
        RunError: no trial has finished with a score.
    """
    if results.winner is None:
        reasons = [row.reason for row in results.rows if row.reason]
        raise RunError(
            f"No trial of {results.directory.path} has finished with a score"
            + (f"; the last one: {reasons[-1]}" if reasons else ".")
        )
    config = with_values(results.request.config, results.winner)
    return config.model_copy(update={"name": f"{results.request.name}-best"})


def write_results(results: Results) -> None:
    """Write trials.parquet and, if a trial has a score, best.yaml."""
    directory = results.directory
    table = pa.Table.from_pylist(table_rows(results))
    atomic_write_bytes(directory.table, parquet_bytes(table))
    if results.winner is not None:
        atomic_write_bytes(directory.best, f"{_heading(results)}\n{dump_config(best_config(results))}".encode())


def table_rows(results: Results) -> list[dict[str, Any]]:
    """One dict per trial, all with the same keys: stage, number, id, state, values, scores, measures, reason."""
    rows = [("search", row) for row in results.rows]
    rows += [(stage, row) for stage, found in results.further.items() for row in found]
    keys = list(dict.fromkeys(key for _, row in rows for key in row.point))
    measures = sorted({name for _, row in rows for name in row.measures})
    names = list(dict.fromkeys(METRICS[objective] for objective in (*results.request.objectives, "map")))
    return [
        {"stage": stage, "number": row.number, "id": row.id, "state": row.state}
        | {key: row.point.get(key) for key in keys}
        | dict.fromkeys(names)
        | dict(zip(score_names(results.request, stage), row.scores, strict=False))
        | {name: row.measures.get(name) for name in measures}
        | {"reason": row.reason}
        for stage, row in rows
    ]


def score_names(request: Request, stage: str) -> list[str]:
    """Names of the scores of a phase."""
    return ["mAP"] if stage == "final" else [METRICS[objective] for objective in request.objectives]


def _heading(results: Results) -> str:
    """The comment at the top of best.yaml: its origin."""
    request, best = results.request, best_first(results.rows)
    objective, n_trials = request.objectives[0], sum(row.ranked for row in results.rows)
    origin = f"# The best of {n_trials} trials by {objective}"
    top = results.repeats[0] if results.repeats else None
    if top is not None and top.values == results.winner:
        return f"{origin}: mean {top.mean:.4f} over {len(top.scores)} new seeds."
    if results.is_undecided:
        return f"{origin} does not differ from the recipe, whose values these are."
    return f"{origin}: {best[0].scores[0]:.4f}, trial {best[0].id}."


def _without_seed(row: Row) -> Values:
    return {key: value for key, value in row.point.items() if key != "seed"}
