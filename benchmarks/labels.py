"""The label engine compared with a dense implementation of the published description and with plain nearest neighbours.

`python benchmarks/labels.py` compares the three at 3,000, 12,936 and 32,621 rows (the latter two are the training
splits of Market-1501 and MSMT17) and prints ratios, peak memory and whether labels are the same. `--scale 126441x2048
1000000x256` measures the engine alone, stage by stage, and `--plot FILE.svg` plots the growth of each stage. Features
are read from a file that `reid-ray extract` wrote, or generated; a file with too few rows is multiplied
(`label_features.py`).

Each measurement runs in a separate process to isolate its peak memory, which excludes the interpreter, the libraries
and the features, after a first run on a few rows. Measurements of one size alternate, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from label_features import make_features, multiply
from label_rivals import bare_faiss, bare_product, bare_sklearn, bare_topk, dense

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Result = dict[str, Any]

SETTINGS: dict[str, dict[str, Any]] = {
    "spcl": {"variant": "spcl", "k1": 30, "k2": 6, "eps": 0.55, "min_samples": 4},
    "cvpr17": {"variant": "cvpr17", "k1": 20, "k2": 6, "eps": 0.6, "min_samples": 4},
}
"""Settings of ICE and of domain adaptation (SSG, MMT); the latter methods choose eps near this value."""

WARM_UP_ROWS = 600
KNN_BLOCKS = (1024, 4096)
RECALL_ROWS = 1000
STAGES = ("neighbours", "encoding", "graph", "clusters")


# Measured methods


def ours(features: Floats, settings: dict[str, Any]) -> tuple[Labels, dict[str, float]]:
    """A refresh by the engine."""
    from reid_ray.config import LabelsConfig
    from reid_ray.labels.refresh import cluster_rows
    from reid_ray.types import UNKNOWN

    cameras = np.full(len(features), UNKNOWN)
    found = cluster_rows(features, LabelsConfig(**settings), cameras, device="cpu")
    return found.labels, dict(found.seconds)


def staged(features: Floats, settings: dict[str, Any], neighbours: str) -> tuple[Labels, Result]:
    """The engine, stage by stage, each with its time and its peak memory; and the recall of approximate neighbours."""
    from reid_ray.labels.clustering import dbscan
    from reid_ray.labels.encoding import JaccardParams, NeighbourLists, encode, search
    from reid_ray.labels.jaccard import graph_of_weights
    from reid_ray.labels.neighbours import approximate

    params = JaccardParams(settings["variant"], settings["k1"], settings["k2"])
    stages: Result = {"seconds": {}, "peak_mb": {}}

    def stage(name: str, function: Callable[[], Any]) -> Any:
        reset_peak()
        started = time.perf_counter()
        answer = function()
        stages["seconds"][name] = time.perf_counter() - started
        stages["peak_mb"][name] = peak_mb()
        return answer

    if neighbours == "exact":
        lists = stage("neighbours", lambda: search(features, params, device="cpu"))
    else:
        k = params.n_neighbours
        lists = stage(
            "neighbours", lambda: NeighbourLists(approximate.nearest_approximate(features, k, method=neighbours))
        )
        started = time.perf_counter()
        stages["recall"] = approximate.recall(features, lists.main, sample=min(RECALL_ROWS, len(features)))
        stages["recall_seconds"] = time.perf_counter() - started
    weights = stage("encoding", lambda: encode(features, lists, params))
    graph = stage("graph", lambda: graph_of_weights(weights, settings["eps"]))
    labels = stage("clusters", lambda: dbscan(graph, eps=settings["eps"], min_samples=settings["min_samples"]))
    return labels, stages | {"pairs": int(graph.nnz)}


# Measuring


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Peak resident memory since `reset_peak`."""
    return status_mb("VmHWM")


def status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def child(task: dict[str, Any]) -> None:
    """Run one measurement and print it as JSON."""
    torch.set_num_threads(task["threads"])
    method, settings = task["method"], task["settings"]
    k = settings["k1"] + (settings["variant"] == "cvpr17")
    actions: dict[str, Callable[[Floats], Any]] = {
        "ours": lambda rows: ours(rows, settings),
        "dense": lambda rows: dense(rows, settings),
        "product": lambda rows: bare_product(rows, KNN_BLOCKS[-1]),
        "sklearn": lambda rows: bare_sklearn(rows, k),
        "faiss": lambda rows: bare_faiss(rows, k),
        "staged": lambda rows: staged(rows, settings, task["neighbours"]),
    }
    actions |= {f"topk {block}": lambda rows, block=block: bare_topk(rows, k, block) for block in KNN_BLOCKS}  # type: ignore[misc]
    action = actions[method]
    features = np.load(task["features"])
    with torch.no_grad():
        action(np.ascontiguousarray(features[:WARM_UP_ROWS]))
        before = status_mb("VmRSS")
        reset_peak()
        started = time.perf_counter()
        answer = action(features)
        seconds = time.perf_counter() - started
    result: Result = {"seconds": seconds, "peak_mb": peak_mb() - before, "features_mb": features.nbytes / 2**20}
    if answer is not None:
        labels, stages = answer
        np.save(task["labels"], labels)
        result |= {"n_clusters": int(labels.max(initial=-1)) + 1, "n_outliers": int((labels == -1).sum())}
        result["stages"] = stages
        if method == "staged":
            stages["peak_mb"] = {name: max(0.0, peak - before) for name, peak in stages["peak_mb"].items()}
            result["peak_mb"] = max(stages["peak_mb"].values())
            result["seconds"] = sum(stages["seconds"].values())
    print(json.dumps(result))


def measure(task: dict[str, Any]) -> Result:
    """Run a measurement in another process; `{}` if it fails there."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(task["threads"]), "NUMBA_NUM_THREADS": str(task["threads"])}
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        print(f"{task['method']} failed: {reason[0]}", file=sys.stderr)
        return {}
    answer: Result = json.loads(done.stdout.splitlines()[-1])
    return answer


def same_labels(a: Path, b: Path) -> bool:
    """Whether two labellings are equal up to a renumbering of clusters."""
    first, second = np.load(a), np.load(b)
    if not np.array_equal(first == -1, second == -1):
        return False
    pairs = np.unique(np.stack([first, second]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    """The table that compares the engine, the dense implementation and plain neighbours."""
    headings = ("rows × dims", "variant", "ours, s", "kNN, s (which)", "dense, s", "ours/kNN", "dense/ours", "ours, MB")
    headings += ("dense, MB", "share", "clusters", "outliers", "labels")
    print_row(headings)
    print_row(["---"] * len(headings))
    for n_rows in arguments.rows:
        file = write_features(arguments, n_rows, arguments.dim, folder)
        for variant in arguments.variants:
            print_row(compare_at(arguments, file, n_rows, variant, folder))
        file.unlink()


def compare_at(arguments: argparse.Namespace, file: Path, n_rows: int, variant: str, folder: Path) -> list[str]:
    bare = [f"topk {block}" for block in KNN_BLOCKS] + (["faiss"] if importable("faiss") else [])
    task = {"features": str(file), "settings": SETTINGS[variant], "threads": arguments.threads}
    results: dict[str, list[Result]] = {}
    for repeat in range(arguments.repeats):
        slow = ["sklearn", *(["dense"] if n_rows <= arguments.dense_up_to else [])] if repeat == 0 else []
        for method in ["ours", *bare, "product", *slow]:
            labels = folder / f"{method}.npy"
            found = measure(task | {"method": method, "labels": str(labels)})
            if found:
                results.setdefault(method, []).append(found)
    seconds = {method: statistics.median(run["seconds"] for run in runs) for method, runs in results.items()}
    fastest = min((method for method in [*bare, "sklearn"] if method in seconds), key=lambda method: seconds[method])
    log(arguments, {"kind": "compare", "rows": n_rows, "variant": variant, "results": results})
    own = results["ours"][0]
    cells = [f"{n_rows:,} × {np.load(file, mmap_mode='r').shape[1]}", variant, f"{seconds['ours']:.2f}"]
    cells += [f"{seconds[fastest]:.2f} ({fastest}; product {seconds['product']:.2f})"]
    own_mb = statistics.median(run["peak_mb"] for run in results["ours"])
    if "dense" in results:
        dense_mb = results["dense"][0]["peak_mb"]
        same = "same" if same_labels(folder / "ours.npy", folder / "dense.npy") else "DIFFERENT"
        cells += [f"{seconds['dense']:.1f}", f"{seconds['ours'] / seconds[fastest]:.2f}"]
        cells += [f"{seconds['dense'] / seconds['ours']:.1f}", f"{own_mb:.0f}", f"{dense_mb:.0f}"]
        cells += [f"{own_mb / dense_mb:.1%}"]
    else:
        same = "–"
        cells += ["–", f"{seconds['ours'] / seconds[fastest]:.2f}", "–", f"{own_mb:.0f}", "–", "–"]
    return [*cells, f"{own['n_clusters']:,}", f"{own['n_outliers']:,}", same]


def scale(arguments: argparse.Namespace, folder: Path) -> None:
    """The table of the engine alone, stage by stage."""
    headings = ("rows × dims", "neighbours", *(f"{name}, s" for name in STAGES), "total, s", "peak, MB", "features, MB")
    headings += ("recall", "clusters", "outliers")
    print_row(headings)
    print_row(["---"] * len(headings))
    for n_rows, dim in arguments.scale:
        file = write_features(arguments, n_rows, dim, folder)
        task = {"features": str(file), "settings": SETTINGS[arguments.variants[0]], "threads": arguments.threads}
        task |= {"method": "staged", "neighbours": arguments.neighbours, "labels": str(folder / "staged.npy")}
        found = measure(task)
        file.unlink()
        if not found:
            continue
        log(arguments, {"kind": "scale", "rows": n_rows, "dim": dim, "neighbours": arguments.neighbours, **found})
        stages = found["stages"]
        cells = [f"{n_rows:,} × {dim}", arguments.neighbours]
        cells += [f"{stages['seconds'][name]:.1f}" for name in STAGES]
        cells += [f"{found['seconds']:.1f}", f"{found['peak_mb']:.0f}", f"{found['features_mb']:.0f}"]
        cells += [f"{stages['recall']:.4f}" if "recall" in stages else "exact"]
        print_row([*cells, f"{found['n_clusters']:,}", f"{found['n_outliers']:,}"])


def write_features(arguments: argparse.Namespace, n_rows: int, dim: int, folder: Path) -> Path:
    """Write the features of one size to a file for the measurements."""
    if arguments.features is None:
        features = make_features(n_rows, dim)
    else:
        features = np.load(arguments.features, mmap_mode="r")
        if features.shape[1] > dim:  # a random projection preserves similarities, up to noise
            rng = np.random.default_rng(0)
            features = features @ rng.standard_normal((features.shape[1], dim), dtype=np.float32)
            features /= np.linalg.norm(features, axis=1, keepdims=True)
        if len(features) < n_rows:
            print(f"{n_rows:,} rows: {len(features):,} of the file, the rest multiplied from them", file=sys.stderr)
        features = multiply(features, n_rows)
    file = folder / "features.npy"
    np.save(file, features)
    return file


def print_row(cells: Iterable[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def importable(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def log(arguments: argparse.Namespace, record: Result) -> None:
    if arguments.log is not None:
        with arguments.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def plot(records: Iterable[Result], out: Path) -> None:
    """Time and memory of each stage against the number of rows, a column of panels per dimension and kind of search."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "labels"  # the same results give the same file
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    runs = [record for record in records if record["kind"] == "scale"]
    groups = sorted({(run["dim"], run["neighbours"]) for run in runs}, reverse=True)
    figure, axes = plt.subplots(
        2, len(groups), figsize=(4.2 * len(groups), 6.4), sharex="col", squeeze=False, sharey="row"
    )
    for column, (dim, neighbours) in enumerate(groups):
        chosen = sorted(
            (run for run in runs if (run["dim"], run["neighbours"]) == (dim, neighbours)), key=lambda run: run["rows"]
        )
        rows = [run["rows"] for run in chosen]
        for name in STAGES:
            for axis, key in ((axes[0, column], "seconds"), (axes[1, column], "peak_mb")):
                axis.loglog(rows, [max(run["stages"][key][name], 1e-3) for run in chosen], marker="o", label=name)
        axes[0, column].set_title(f"{dim} dimensions, {neighbours} neighbours", fontsize=10)
        axes[1, column].set_xlabel("rows")
    axes[0, 0].set_ylabel("seconds, 2 cores")
    axes[1, 0].set_ylabel("peak memory beyond the features, MB")
    axes[0, 0].legend(frameon=False)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.xaxis.set_minor_formatter(NullFormatter())
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def size(text: str) -> tuple[int, int]:
    n_rows, _, dim = text.partition("x")
    return int(n_rows), int(dim)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[3000, 12936, 32621], help="sizes to compare at")
    parser.add_argument("--dim", type=int, default=2048, help="dimensions of compared features")
    parser.add_argument("--features", type=Path, help=".npy of features, L2-normalised; default: generated ones")
    parser.add_argument("--variants", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="--scale: the first")
    parser.add_argument("--repeats", type=int, default=3, help="of each but dense and scikit-learn")
    parser.add_argument("--dense-up-to", type=int, default=33000, metavar="N", help="rows; it takes 13·N² bytes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scale", type=size, nargs="+", metavar="NxD", help="measure the engine alone at these sizes")
    parser.add_argument("--neighbours", choices=("exact", "ivf", "hnsw"), default="exact", help="for --scale")
    parser.add_argument("--log", type=Path, help="append results to this file, a JSON object per line")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the --scale results in --log, and stop")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    if arguments.plot:
        if arguments.log is None:
            parser.error("--plot draws what --log FILE holds; give both")
        plot((json.loads(line) for line in arguments.log.read_text().splitlines()), arguments.plot)
        return
    with tempfile.TemporaryDirectory() as folder:
        (scale if arguments.scale else compare)(arguments, Path(folder))


if __name__ == "__main__":
    main()
