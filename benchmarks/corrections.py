"""Value of corrections: an oracle answers questions from the ground truth, and the labels are computed again.

    python benchmarks/corrections.py features.npy --answers 50 200 1000 --log results.jsonl

Features are files written by `reid-ray extract` (with identities in the table of rows). After each round of answers the
features are clustered under all constraints so far. Three ways to choose the pairs:

* `chosen`: `reid_ray.labels.asking`, as `reid-ray label --ask` does;
* `near`: random pairs of the graph up to the same distance, which mostly show similar people;
* `random`: random pairs of all images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from reid_ray.types import IntArray

if TYPE_CHECKING:
    from reid_ray.labels.constraints import Constraints

Choose = Callable[[IntArray, Any, int, int], IntArray]
"""(labels, constraints, number of pairs, round) → pairs int64 [n, 2]."""


def simulate(
    graph: csr_array, pids: IntArray, choose: Choose, *, eps: float, min_samples: int, answers: list[int], size: int
) -> tuple[list[dict[str, Any]], Constraints]:
    """Scores before any answer and after each number of answers, and all answers.

    Args:
        size: answers per round; between rounds the features are clustered again.
    """
    from reid_ray.labels.blockwise import dbscan_in_blocks
    from reid_ray.labels.constraints import Constraints
    from reid_ray.labels.executor import SerialExecutor
    from reid_ray.labels.quality import ground_truth_scores, label_statistics

    constraints, given, results, number = Constraints(), 0, [], 0
    started = time.perf_counter()
    while True:
        labels = dbscan_in_blocks([graph], eps, min_samples, [range(graph.shape[0])], SerialExecutor(), constraints)
        if given in (0, *answers):
            counts = {name: label_statistics(labels)[name] for name in ("n_clusters", "n_outliers")}
            results.append(
                {
                    "answers": given,
                    "n_same": len(constraints.same),
                    "seconds": time.perf_counter() - started,
                    **counts,
                    **ground_truth_scores(labels, pids),
                }
            )
        if given >= max(answers):
            return results, constraints
        until = min(after for after in answers if after > given)
        pairs = choose(labels, constraints, min(size, until - given), number)
        if not len(pairs):
            return results, constraints
        agree = pids[pairs[:, 0]] == pids[pairs[:, 1]]
        constraints = Constraints(
            np.concatenate([constraints.same, pairs[agree]]), np.concatenate([constraints.different, pairs[~agree]])
        )
        given += len(pairs)
        number += 1


def chosen(graph: csr_array) -> Choose:
    from reid_ray.labels.asking import questions

    def choose(labels: IntArray, constraints: Any, n: int, number: int) -> IntArray:
        found = questions(graph, labels, n, constraints)
        return np.array([question[:2] for question in found], dtype=np.int64).reshape(-1, 2)

    return choose


def near(graph: csr_array, seed: int) -> Choose:
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    above = rows < graph.indices
    pairs = np.stack([rows[above], graph.indices[above]], axis=1).astype(np.int64)

    def choose(labels: IntArray, constraints: Any, n: int, number: int) -> IntArray:
        return pairs[np.random.default_rng((seed, number)).choice(len(pairs), n, replace=False)]

    return choose


def anywhere(n_rows: int, seed: int) -> Choose:
    def choose(labels: IntArray, constraints: Any, n: int, number: int) -> IntArray:
        rng = np.random.default_rng((seed, number))
        first = rng.integers(n_rows, size=n)
        return np.stack([first, (first + rng.integers(1, n_rows, size=n)) % n_rows], axis=1)

    return choose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help=".npy file, with the table of rows next to it")
    parser.add_argument("--answers", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--round", type=int, default=50, help="answers before the features are clustered again")
    parser.add_argument("--k1", type=int, default=30)
    parser.add_argument("--eps", type=float, default=0.55)
    parser.add_argument("--min-samples", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3, help="of the random choices")
    parser.add_argument("--log", type=Path, help="append results to this file, a JSON object per line")
    parser.add_argument("--write", type=Path, help="write the answers to the chosen pairs to this constraints file")
    given = parser.parse_args()

    from reid_ray.labels import jaccard_graph, open_features
    from reid_ray.labels.asking import ASKED_DISTANCE
    from reid_ray.labels.constraints import format_verdicts

    features, rows = open_features(given.features), pq.read_table(given.features.with_suffix(".parquet"))
    pids = rows["pid"].to_numpy()
    graph = jaccard_graph(np.asarray(features, np.float32), k1=given.k1, k2=6, max_distance=ASKED_DISTANCE)
    ways = [("chosen", chosen(graph))]
    ways += [("near", near(graph, seed)) for seed in range(given.seeds)]
    ways += [("random", anywhere(len(pids), seed)) for seed in range(given.seeds)]
    print("| pairs | answers | same | clusters | outliers | precision | recall | F1 | ARI | s |\n" + "|---" * 10 + "|")
    for name, choose in ways:
        results, answered = simulate(
            graph,
            pids,
            choose,
            eps=given.eps,
            min_samples=given.min_samples,
            answers=sorted(given.answers),
            size=given.round,
        )
        if name == "chosen" and given.write is not None:
            paths = rows["path"].to_pylist()
            verdicts = [
                (paths[one], paths[other], verdict)
                for verdict in ("same", "different")
                for one, other in getattr(answered, verdict).tolist()
            ]
            given.write.write_text(format_verdicts(verdicts), encoding="utf-8")
        for result in results:
            cells = [name, result["answers"], result["n_same"], result["n_clusters"], result["n_outliers"]]
            cells += [f"{result[f'pairwise_{key}']:.3f}" for key in ("precision", "recall", "f1")]
            print(f"| {' | '.join(map(str, cells))} | {result['ari']:.3f} | {result['seconds']:.1f} |", flush=True)
            if given.log is not None:
                with given.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"pairs": name, **result}) + "\n")


if __name__ == "__main__":
    main()
