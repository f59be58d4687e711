"""Rankings as rows of crops on a page: the hardest queries of a run, and the same queries of several runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reid_ray.data.images import ImageReader
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.reports.crops import IMAGE_HEIGHT, EmbeddedImage, embedded, where_and_when
from reid_ray.reports.film import compared_images
from reid_ray.reports.rankings import Rankings, hardest, is_current, most_different, shared_rows, stored_rankings
from reid_ray.reports.templating import render
from reid_ray.run import Run
from reid_ray.types import UNKNOWN, IntArray

N_QUERIES = 8
HOW = "reid-ray report RUN … --ranked"
"""The command that stores rankings, as a hint on pages."""


@dataclass(frozen=True, eq=False)
class RankedRun:
    """The rankings of a run with the images that they name.

    Attributes:
        name: of the run on the page.
        rankings: of `query` against `gallery`.
        query, gallery: tables of the compared items.
        images: reads the paths of both tables.
        source: equal for two runs if the same path is the same image.
        outdated: whether the run has trained since it was ranked.
    """

    name: str
    rankings: Rankings
    query: ImageTable
    gallery: ImageTable
    images: ImageReader
    source: object = None
    outdated: bool = False


def ranked_run(run: Run, name: str) -> RankedRun | None:
    """The stored rankings of a run; None if there are none for its images.

    Raises:
        DataError: the run's data, or its rankings, cannot be read.
    """
    rankings = stored_rankings(run)
    if rankings is None:
        return None
    shown = compared_images(run.dataset, run.config, IMAGE_HEIGHT).dataset
    data = run.config.data
    # Keys of synthetic images are equal in all synthetic worlds.
    source = data.synthetic.model_dump_json() if data.layout == "synthetic" else None
    outdated = not is_current(run, rankings)
    return RankedRun(name, rankings, shown.query, shown.gallery, shown.images, source, outdated)


def hardest_queries(run: RankedRun, n: int = N_QUERIES) -> str:
    """A section with the queries of the lowest average precision, and what they were taken for; empty without any."""
    rows = hardest(run.rankings.ap, n)
    if not len(rows):
        return ""
    note = f"The {len(rows)} of {len(run.query)} queries with the lowest average precision (AP), lowest first."
    return _section("Hardest queries", " ".join([note, *_outdated([run])]), [run], rows[:, None], named=False)


def same_queries(runs: Sequence[RankedRun], missing: Sequence[str] = (), n: int = N_QUERIES) -> str:
    """A section with the same queries in several runs, a row of matches for each run.

    Args:
        runs: those with rankings, at least one.
        missing: names of the runs without.
        n: maximum number of queries.
    """
    rows = shared_rows([_keys(run) for run in runs])
    aps = [run.rankings.ap[column] for run, column in zip(runs, rows.T, strict=True)]
    chosen = rows[most_different(np.stack(aps, axis=1), n)]
    note = [f"{len(chosen)} of {len(rows)} common queries: those whose average precision (AP) differs most come first."]
    if not len(rows):
        note = ["These runs have no queries in common."]
    note += [f"Not ranked yet: {', '.join(missing)}; '{HOW}' ranks."] if missing else []
    return _section("The same queries", " ".join([*note, *_outdated(runs)]), runs, chosen, named=True)


def _outdated(runs: Sequence[RankedRun]) -> list[str]:
    """A remark on runs that have trained since they were ranked, if there are any."""
    found = [f"{run.name} (after {run.rankings.global_step} steps)" for run in runs if run.outdated]
    return [f"Ranked by an earlier model: {', '.join(found)}; '{HOW}' ranks again."] if found else []


def _keys(run: RankedRun) -> list[tuple[object, ...]]:
    ids = zip(run.rankings.paths, run.query.pids.tolist(), run.query.camids.tolist(), strict=True)
    return [(run.source, *each) for each in ids]


def _section(heading: str, note: str, runs: Sequence[RankedRun], rows: IntArray, *, named: bool) -> str:
    """Queries `rows` [n, R] of R runs."""
    queries = [
        {
            "query": _query(runs[0], int(query_rows[0])),
            "runs": [
                _matches(run, int(row), run.name if named else "") for run, row in zip(runs, query_rows, strict=True)
            ],
        }
        for query_rows in rows
    ]
    return render("ranked.html", heading=heading, note=note, queries=queries)


def ranked_style() -> str:
    """The CSS of these sections."""
    return render("ranked.css")


def _query(run: RankedRun, row: int) -> dict[str, Any]:
    shown = run.query.take(np.array([row]))
    lines = _about(shown, 0)
    return {
        "image": _image(run.images, shown.paths[0]),
        "alt": ", ".join(["query", *lines]),
        "title": ", ".join(lines) or f"query {row}",
    }


def _matches(run: RankedRun, row: int, name: str) -> dict[str, Any]:
    """The matches of a query in a run."""
    rankings = run.rankings
    found = rankings.matches[row]
    shown = run.gallery.take(found[found >= 0])
    correct, ap = _correct(run, row, shown.pids), rankings.ap[row]
    crops = []
    for j, path in enumerate(shown.paths):
        right = None if correct is None else bool(correct[j])
        verdict = {True: ["same identity"], False: ["another identity"], None: []}[right]
        lines = _about(shown, j)
        crops.append(
            {
                "image": _image(run.images, path),
                "alt": ", ".join([f"match {j + 1}", *verdict, *lines]),
                "right": right,
                "rank": j + 1,
                "similarity": f"{rankings.similarities[row, j]:.2f}",
                "lines": lines,
            }
        )
    return {
        "name": name,
        "ap": "" if np.isnan(ap) else f"AP {100 * ap:.1f}",
        "taken": "" if correct is None else _taken_for(shown.pids, correct),
        "crops": crops,
    }


def _correct(run: RankedRun, row: int, pids: IntArray) -> npt.NDArray[np.bool_] | None:
    """Whether matches of these identities show the query's person; None where that is not known."""
    pid = run.query.pids[row]
    if pid == UNKNOWN or not run.gallery.has_pids:
        return None
    return np.asarray(pids == pid)


def _taken_for(pids: IntArray, correct: npt.NDArray[np.bool_]) -> str:
    """The identities ranked before the first correct match, the most frequent first."""
    before = pids[~np.logical_or.accumulate(correct)].tolist()
    if not before:
        return "the first match is right" if len(pids) else ""
    return "taken for " + ", ".join(f"person {pid} ({count}×)" for pid, count in Counter(before).most_common())


def _about(table: ImageTable, row: int) -> list[str]:
    pid = int(table.pids[row])
    return [*([] if pid == UNKNOWN else [f"person {pid}"]), *where_and_when(table, row)]


def _image(images: ImageReader, path: str) -> EmbeddedImage | None:
    """None for an image that cannot be read any more; the page says so in its place."""
    try:
        return embedded(images.read(path))
    except DataError:
        return None
