"""Exact and approximate search: seconds to build the cells, seconds per query, and recall.

    python benchmarks/search.py INDEX FOLDER [--queries 100] [--top 20]
    python benchmarks/search.py --random 500000 512

INDEX comes from `reid-ray index`, FOLDER has images for queries. With `--random N D`, rows are random unit vectors: 20
per person, with cosines near 0.6 within a person and near 0 between people, in a file of N·D·4 bytes in the folder for
temporary files; queries are further vectors of these people.

Both searches answer one query at a time with one thread. Recall is the share of the exact matches that the approximate
search finds. The cells of INDEX are built in a temporary folder, from all rows but the last tenth, which are then
added.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from reid_ray.labels.neighbours import Neighbours, nearest_to
from reid_ray.search import Index
from reid_ray.search.approximate import FILE, nearest_among_cells, open_inverted_file
from reid_ray.types import FeatureRows, FloatArray

PER_PERSON, SPREAD, BLOCK = 20, 0.8, 10_000
CELLS_VISITED = (16, 64, 256)


def random_people(file: Path, n_rows: int, dim: int, n_queries: int) -> tuple[FeatureRows, FloatArray]:
    """Unit vectors of n_rows / 20 people in a file, in random order, and queries of some of them."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(n_rows // PER_PERSON, 1), dim), dtype=np.float32)

    def samples(n: int) -> FloatArray:
        people = rng.integers(0, len(centres), n)
        rows = centres[people] + SPREAD * rng.standard_normal((n, dim), dtype=np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    written = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(n_rows, dim))
    for start in range(0, n_rows, BLOCK):
        written[start : start + BLOCK] = samples(min(BLOCK, n_rows - start))
    written.flush()
    return np.load(file, mmap_mode="r"), samples(n_queries)


class FirstRows:
    """The first n rows of a matrix, such as an index before an addition."""

    def __init__(self, features: FeatureRows, n_rows: int) -> None:
        self.features, self.shape = features, (n_rows, features.shape[1])

    def __getitem__(self, rows: slice, /) -> FloatArray:
        start, stop, _ = rows.indices(self.shape[0])
        return self.features[start:stop]


def timed(task: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - wall, time.process_time() - cpu


def report(title: str, seconds: Sequence[tuple[float, float]], note: str = "") -> None:
    wall, cpu = (median(each) for each in zip(*seconds, strict=True))
    print(f"| {title} | {cpu:.3g} | {wall:.3g} | {note} |", flush=True)


def measure(features: FeatureRows, queries: FloatArray, top: int, folder: Path) -> None:
    n_rows, dim = features.shape
    print(f"{n_rows:,} × {dim}, top {top}, {len(queries)} queries\n")
    print("| step | CPU seconds | wall-clock seconds | |\n|---|---|---|---|")
    before = FirstRows(features, n_rows * 9 // 10)
    report(f"cells of the first {before.shape[0]:,} rows", [timed(lambda: open_inverted_file(folder, before))])
    report("addition of the rest", [timed(lambda: open_inverted_file(folder, features))])
    megabytes = (folder / FILE).stat().st_size / 1e6
    report("opening the stored cells", [timed(lambda: open_inverted_file(folder, features))], f"{megabytes:.0f} MB")
    inverted = open_inverted_file(folder, features)
    nearest_to(queries[:1], features, top)  # compiles the kernels, and reads the file once

    def answers(search: Callable[[FloatArray], Neighbours]) -> tuple[list[Neighbours], list[tuple[float, float]]]:
        found: list[Neighbours] = []
        each = [timed(lambda at=at: found.append(search(queries[at : at + 1]))) for at in range(len(queries))]
        return found, each

    exact, seconds = answers(lambda query: nearest_to(query, features, top))
    report("exact query", seconds)
    for n_cells in CELLS_VISITED:
        found, seconds = answers(
            lambda query, n=n_cells: nearest_among_cells(query, features, top, inverted, n_cells=n)
        )
        hits = [np.isin(a.indices, b.indices).mean() for a, b in zip(exact, found, strict=True)]
        report(f"approximate query, {n_cells} of {inverted.nlist} cells", seconds, f"recall {np.mean(hits):.1%}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", nargs="?", type=Path)
    parser.add_argument("folder", nargs="?", type=Path, help="images for queries")
    parser.add_argument("--random", nargs=2, type=int, metavar=("N", "D"), help="random vectors instead of an index")
    parser.add_argument("--queries", type=int, default=100, help="number of queries (default 100)")
    parser.add_argument("--top", type=int, default=20, help="matches per query (default 20)")
    given = parser.parse_args(arguments)
    if (given.folder is None) == (given.random is None):
        parser.error("give INDEX and FOLDER, or --random N D")
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        if given.random:
            features, queries = random_people(Path(temporary) / "features.npy", *given.random, given.queries)
        else:
            index = Index(str(given.index))
            names = sorted(given.folder.glob("*.jpg"))
            chosen = np.linspace(0, len(names) - 1, given.queries).round().astype(int)
            features, queries = index.features, index.run.embed([names[i] for i in chosen])
        measure(features, queries, given.top, Path(temporary))


if __name__ == "__main__":
    main()
