"""The label engine compared with a dense implementation of the published description and with plain nearest neighbours.

`python benchmarks/labels.py` compares the three at 3,000, 12,936 and 32,621 rows (the latter two are the training
splits of Market-1501 and MSMT17) and prints ratios, peak memory and whether labels are the same. `--scale 126441x2048
1000000x256` measures the engine alone, stage by stage, and `--plot FILE.svg` plots the growth of each stage. Features
are read from a file that `reid-ray extract` wrote, or generated (`make_features`); a file with too few rows is
multiplied (`multiply`).

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
MIXED_NOISE = 0.3
STAGES = ("neighbours", "encoding", "graph", "clusters")


# Features


def make_features(n_rows: int, dim: int, seed: int = 0) -> Floats:
    """Features float32 [N, D] that cluster about as badly as those of a network in training do on Market-1501.

    Persons have log-normal numbers of images (2 to 72, 17 on average) from one to four of six cameras. A feature is the
    sum of the common mean, a person's centre, offsets of the camera and of the person under that camera, and noise;
    except for the noise, the terms span mostly a few dozen dimensions.
    """
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.lognormal(2.65, 0.7, size=n_rows // 8 + 8).astype(np.int64), 2, 72)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), n_rows) + 1]
    persons = np.repeat(np.arange(len(sizes)), sizes)[:n_rows]
    cameras = (persons * 5 + rng.integers(0, 1 + persons % 4)) % 6
    spread = np.sqrt((np.arange(dim) + 15.0) ** -1.6)
    spread = (spread / np.linalg.norm(spread)).astype(np.float32)
    mean = 0.13 * rng.standard_normal(dim, dtype=np.float32) / np.sqrt(dim, dtype=np.float32)
    of_camera = 0.25 * spread * rng.standard_normal((6, dim), dtype=np.float32)
    of_person = 0.70 * spread * rng.standard_normal((len(sizes), dim), dtype=np.float32)
    under_camera = 0.40 * spread * rng.standard_normal((6 * len(sizes), dim), dtype=np.float32)
    features = np.empty((n_rows, dim), dtype=np.float32)
    order = rng.permutation(n_rows)
    for start in range(0, n_rows, 4096):
        rows = order[start : start + 4096]
        noise = rng.standard_normal((len(rows), dim), dtype=np.float32)
        block = mean + of_person[persons[rows]] + of_camera[cameras[rows]]
        block += under_camera[persons[rows] * 6 + cameras[rows]] + spread * noise
        features[start : start + 4096] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return features


def multiply(features: Floats, n_rows: int, seed: int = 0) -> Floats:
    """Extend features to `n_rows` by copies, each with new persons and slightly more noise.

    A copy is rotated about the common mean (its dimensions are permuted and change sign), which preserves similarities
    within the copy and makes its persons unrelated to all others; noise makes copies differ.
    """
    rng = np.random.default_rng(seed)
    n_real, dim = features.shape
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    parts = [features[:n_rows]]
    for start in range(n_real, n_rows, n_real):
        copied = features[: n_rows - start] - mean
        copied = copied[:, rng.permutation(dim)] * rng.choice(np.array([-1, 1], dtype=np.float32), dim)
        copied += MIXED_NOISE / np.sqrt(dim, dtype=np.float32) * rng.standard_normal(copied.shape, dtype=np.float32)
        copied += mean
        copied /= np.linalg.norm(copied, axis=1, keepdims=True)
        parts.append(copied)
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


# Measured methods


def ours(features: Floats, settings: dict[str, Any]) -> tuple[Labels, dict[str, float]]:
    """A refresh by the engine."""
    from reid_ray.config import LabelsConfig
    from reid_ray.labels.refresh import cluster_rows
    from reid_ray.types import UNKNOWN

    cameras = np.full(len(features), UNKNOWN)
    found = cluster_rows(features, LabelsConfig(**settings), cameras, device="cpu")
    return found.labels, dict(found.seconds)


def bare_topk(features: Floats, k: int, block: int) -> None:
    """Only exact neighbours: float32 products by blocks of rows, and PyTorch's top k."""
    rows = torch.from_numpy(features)
    for start in range(0, len(rows), block):
        (rows[start : start + block] @ rows.T).topk(k)


def bare_product(features: Floats, block: int) -> None:
    """The products alone: no exact search in float32 that forms all of them can be faster."""
    rows = torch.from_numpy(features)
    out = torch.empty(block, len(rows))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        torch.mm(part, rows.T, out=out[: len(part)])


def bare_sklearn(features: Floats, k: int) -> None:
    from sklearn.neighbors import NearestNeighbors

    NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features).kneighbors(features)


def bare_faiss(features: Floats, k: int) -> None:
    import faiss

    index = faiss.IndexFlatIP(features.shape[1])
    index.add(features)
    index.search(features, k)


def dense(features: Floats, settings: dict[str, Any]) -> tuple[Labels, dict[str, float]]:
    """The published description with N×N matrices in float32 and a Python loop over rows, then scikit-learn.

    Ranks are partial sorts of blocks of rows, as in later releases; the first release sorted the whole N×N matrix.
    """
    from sklearn.cluster import DBSCAN

    n_rows, k1, k2 = len(features), settings["k1"], settings["k2"]
    seconds = {}
    started = time.perf_counter()
    own = torch.from_numpy(features)
    distances = (2 - 2 * own @ own.T).numpy()
    k = k1 if settings["variant"] == "spcl" else k1 + 1
    ranks = np.concatenate(
        [
            np.argpartition(distances[rows : rows + 256], range(k), axis=1)[:, :k].astype(np.int32)
            for rows in range(0, n_rows, 256)
        ]
    )
    seconds["neighbours"] = time.perf_counter() - started
    if settings["variant"] == "cvpr17":
        distances /= distances.max(axis=1, keepdims=True)
    weights = np.zeros((n_rows, n_rows), dtype=np.float32)
    k_half = int(np.around(k1 / 2)) + 1
    for i in range(n_rows):
        base = reciprocal(ranks, i, k)
        expanded = base
        for candidate in base:
            half = reciprocal(ranks, candidate, k_half)
            if len(np.intersect1d(half, base)) > 2 / 3 * len(half):
                expanded = np.append(expanded, half)
        expanded = np.unique(expanded)
        weight = np.exp(-distances[i, expanded])
        weights[i, expanded] = weight / weight.sum()
    del distances
    if k2 > 1:
        mean = np.zeros_like(weights)
        for i in range(n_rows):
            mean[i] = weights[ranks[i, :k2]].mean(axis=0)
        weights = mean
        del mean
    seconds["encoding"] = time.perf_counter() - started - sum(seconds.values())
    holders = [np.where(weights[:, i] != 0)[0] for i in range(n_rows)]
    jaccard = np.zeros((n_rows, n_rows), dtype=np.float32)
    for i in range(n_rows):
        shared = np.zeros(n_rows, dtype=np.float32)
        for column in np.where(weights[i] != 0)[0]:
            others = holders[column]
            shared[others] += np.minimum(weights[i, column], weights[others, column])
        jaccard[i] = 1 - shared / (2 - shared)
    jaccard[jaccard < 0] = 0
    del weights
    seconds["graph"] = time.perf_counter() - started - sum(seconds.values())
    clusters = DBSCAN(eps=settings["eps"], min_samples=settings["min_samples"], metric="precomputed", n_jobs=-1)
    labels = clusters.fit_predict(jaccard)
    seconds["clusters"] = time.perf_counter() - started - sum(seconds.values())
    return labels, seconds


def reciprocal(ranks: npt.NDArray[np.int32], row: int, k: int) -> npt.NDArray[np.int32]:
    forward = ranks[row, :k]
    return forward[np.where(ranks[forward, :k] == row)[0]]


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
