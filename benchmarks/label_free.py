"""Does the label-free objective rank labellings and models as identities do? Rank correlations on what you give it.

    python benchmarks/label_free.py labellings features.npy other.npy --log results.jsonl
    python benchmarks/label_free.py runs runs/unsupervised runs/tuned --log results.jsonl
    python benchmarks/label_free.py plot --log results.jsonl --out label-free.svg

`labellings` makes many labellings of features that `reid-ray extract` wrote (the table of rows next to them, with
identities) and prints Spearman's rank correlation of every label-free score with pairwise F1 and with ARI; the people
of the training split and those of query and gallery are two sets. `runs` takes folders of finished runs: it labels the
features of each run's last model again, and prints the correlations of their scores with the F1 of those labels and
with the run's mAP. Runs on other images or of another network are another set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from reid_ray.types import UNKNOWN, FloatArray, IntArray

# The engine brings PyTorch with it, which plots do not need: it is imported where it is used.

Result = dict[str, Any]

SCORES = (
    "label_free",
    "silhouette",
    "clustered_share",
    "largest_share",
    "effective_clusters",
    "size_gini",
    "camera_entropy",
    "camera_mix",
    "cross_camera_share",
)
"""What is correlated, where it is there."""

GRIDS = (
    ["variant=spcl", "k1=15,20,30,40", "k2=6", "eps=.4:.7:.05", "min_samples=2,4,8"],
    ["variant=spcl", "k1=30", "k2=1,12", "eps=.4:.7:.05", "min_samples=4"],
    ["variant=cvpr17", "k1=20,30", "k2=6", "eps=.4:.7:.05", "min_samples=2,4,8"],
    ["variant=camera", "k1=20", "k2=4", "eps=.4:.7:.05", "min_samples=2,4,8"],
)
"""Settings that a user could try: from too few images in clusters to too many."""

DISTRACTOR = 0
"""Market-1501's pid of gallery images that show no person of the queries: not one identity."""


NOT_IMAGES = {"strong", "cache_mb", "loader_threads"}
"""Keys of `data` that runs on the same images may differ in."""


def labellings(files: Sequence[Path]) -> Iterator[Result]:
    """Every setting of `GRIDS` on every set of people."""
    from reid_ray.labels.sweep import Setting, parse_grid, sweep

    settings = [setting for grid in GRIDS for setting in parse_grid(grid, Setting())]
    for file in files:
        for name, features, camids, pids in sets_of_people(file):
            for result in sweep(features, settings, camids, pids=pids):
                yield {"kind": "labelling", "set": name, **result}


def sets_of_people(file: Path) -> Iterator[tuple[str, FloatArray, IntArray, IntArray]]:
    """Name, features, cameras and identities of the training people, and of those in query and gallery."""
    from reid_ray.labels.features import open_features

    features, rows = open_features(file), pq.read_table(file.with_suffix(".parquet"))
    splits = np.array(rows["split"].to_pylist())
    for name, mask in (("train", splits == "train"), ("test", splits != "train")):
        if mask.any():
            pids = rows["pid"].to_numpy()[mask]
            known = np.where(pids == DISTRACTOR, UNKNOWN, pids) if name == "test" else pids
            yield f"{file.stem}, {name}", np.asarray(features[mask], np.float32), rows["camid"].to_numpy()[mask], known


def runs(folders: Sequence[Path]) -> Iterator[Result]:
    """The label-free score of every finished run below the folders, with its mAP."""
    from reid_ray.run import load_run
    from reid_ray.tuning.objectives import label_free_score

    for file in sorted(file for folder in folders for file in folder.rglob("checkpoints/model-last.pt")):
        run = load_run(file.parents[1])
        if run.finished and run.config.method.name != "source":
            data, backbone = run.config.data, run.config.model.backbone
            images = hashlib.sha256(data.model_dump_json(exclude=NOT_IMAGES).encode()).hexdigest()[:4]
            group = {"kind": "run", "set": f"{data.layout} {images}, {backbone}"}
            yield {**group, "run": str(run.path), "mAP": mean_ap(run), **label_free_score(run)}


def mean_ap(run: Any) -> float:
    """mAP of the last model on the run's query and gallery, as logged or computed."""
    from reid_ray.evaluation.protocols import evaluate_table

    logged = [event["mAP"] for event in run.metrics("evaluate") if event["epoch"] == run.metrics("end")[-1]["epochs"]]
    if logged:
        return float(logged[-1])
    dataset = run.dataset
    query, gallery = (run.embed_table(table) for table in (dataset.query, dataset.gallery))
    return float(evaluate_table(query, gallery, dataset.table, ap=run.config.evaluation.ap).mAP)


def correlations(results: Sequence[Result], truths: Sequence[str]) -> str:
    """Markdown: Spearman of each score with each truth, a column for each set and truth, and what choosing gives."""
    sets = list(dict.fromkeys(result["set"] for result in results))
    groups = [[result for result in results if result["set"] == name] for name in sets]
    lines = [
        f"{at + 1}: {name}, {len(group)} results" for at, (name, group) in enumerate(zip(sets, groups, strict=True))
    ]
    headings = [f"{truth} ({at + 1})" for at in range(len(sets)) for truth in truths]
    lines += ["", f"| score | {' | '.join(headings)} |", "|---|" + "---|" * len(headings)]
    for score in SCORES:
        cells = [spearman(group, score, truth) for group in groups for truth in truths]
        if any(cell != "–" for cell in cells):
            lines.append(f"| `{score}` | {' | '.join(cells)} |")
    chosen = [choice(group, truth) for group in groups for truth in truths]
    return "\n".join([*lines, f"| chosen by `label_free` / best | {' | '.join(chosen)} |"])


def spearman(results: Sequence[Result], score: str, truth: str) -> str:
    """Spearman's ρ over results that have both; a dash where either does not vary."""
    pairs = [(result[score], result[truth]) for result in results if score in result and truth in result]
    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return "–"
    return f"{spearmanr(*zip(*pairs, strict=True)).statistic:.2f}"


def choice(results: Sequence[Result], truth: str) -> str:
    """The truth of the result with the best label-free score, and the best there is."""
    return f"{max(results, key=lambda result: result['label_free'])[truth]:.3f} / {max(r[truth] for r in results):.3f}"


def plot(results: Sequence[Result], out: Path) -> None:
    """The objective against pairwise F1, a panel for each set of labellings, and against F1 and mAP for runs."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "label-free"  # the same results give the same file
    from matplotlib import pyplot as plt

    made, trained = ([result for result in results if result["kind"] == kind] for kind in ("labelling", "run"))
    panels = [(name, "variant", "pairwise_f1", group) for name, group in by(made, "set").items()]
    panels += [("runs", "set", truth, trained) for truth in ("pairwise_f1", "mAP") if trained]
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=(3.2 * n_columns, 2.9 * n_rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, key, truth, shown) in zip(axes.flat, panels, strict=False):
        for colour, group in by(shown, key).items():
            axis.scatter([r["label_free"] for r in group], [r[truth] for r in group], s=8, label=colour)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("label_free")
        axis.set_ylabel({"pairwise_f1": "pairwise F1"}.get(truth, truth))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=6)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def by(results: Iterable[Result], key: str) -> dict[str, list[Result]]:
    """Results by one of their values, in the order in which they come."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result[key], []).append(result)
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("labellings", "runs", "plot"))
    parser.add_argument("paths", type=Path, nargs="*", help=".npy files of features, or folders of runs")
    parser.add_argument("--log", type=Path, help="append results to this file, a JSON object per line; plot reads it")
    parser.add_argument("--out", type=Path, default=Path("label-free.svg"), help="the drawing")
    given = parser.parse_args()
    if given.what == "plot":
        plot([json.loads(line) for line in given.log.read_text(encoding="utf-8").splitlines()], given.out)
        return
    results = list(logged(runs(given.paths) if given.what == "runs" else labellings(given.paths), given.log))
    print(correlations(results, ("pairwise_f1", "mAP") if given.what == "runs" else ("pairwise_f1", "ari")))


def logged(results: Iterable[Result], log: Path | None) -> Iterator[Result]:
    for result in results:
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
        yield result


if __name__ == "__main__":
    main()
