"""Rank correlations between label-free scores and scores by identities, for labellings and models, over a test bed.

    python benchmarks/label_free.py cells features.npy other.npy --log results.jsonl
    python benchmarks/label_free.py train runs/random --runs 12
    python benchmarks/label_free.py runs runs/random runs/tuned --log results.jsonl
    python benchmarks/label_free.py table --log results.jsonl
    python benchmarks/label_free.py plot --log results.jsonl --out label-free.svg

`cells` computes a grid of labellings of every cell of `label_cells.py`: subsets of the training images in files written
by `reid-ray extract` (the table of rows next to them, with identities), and synthetic worlds. `table` prints, for each
label-free score and over all cells, Spearman's rank correlation with pairwise F1 and the F1 of its choice. `train`
trains short runs of several methods with random settings, without labels. `runs` reads folders of finished runs: it
labels the features of each run's last model again, and prints the correlations of the scores with the F1 of those
labels and with the run's mAP, over all methods and for each. Runs with other images or another network form separate
sets.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from reid_ray.types import UNKNOWN

# The engine imports PyTorch, which plots do not need, so it is imported where it is used.

Result = dict[str, Any]

SCORES = (
    "published",
    "label_free",
    "label_free, tracklets",
    "silhouette",
    "clustered_share",
    "largest_share",
    "effective_clusters",
    "size_gini",
    "camera_entropy",
    "camera_mix",
    "cross_camera_share",
)
"""Correlated values, as far as available."""

GRIDS = (
    ["variant=spcl", "k1=10,15,20,30,40", "k2=6", "eps=.4:.7:.05", "min_samples=2,4,8"],
    ["variant=camera", "k1=10,20", "k2=4", "eps=.3:.6:.05", "min_samples=2,4"],
)
"""Settings that a user could try, from too few images in clusters to too many; the second needs two cameras."""

PUBLISHED = {"variant": "spcl", "k1": 30, "eps": 0.55, "min_samples": 4}
"""The setting of ICE's recipe, which does not depend on the cell."""

GOOD_SHARE = 0.9
"""A choice is good if its F1 is at least this share of the best."""

METHODS = ("ICE", "cluster-contrast", "CAP", "SpCL")
"""Rows of the table `unsupervised` of `methods.py` that `train` runs."""

RANGES: dict[str, tuple[float, float]] = {"labels.eps": (0.35, 0.75), "labels.k1": (8, 40), "training.lr": (5e-5, 2e-3)}
"""Range of each random setting; the logarithm of the rate is uniform."""

NOT_IMAGES = {"strong", "cache_mb", "loader_threads"}
"""Keys of `data` in which runs on the same images may differ."""


def labellings(files: Sequence[Path]) -> Iterator[Result]:
    """Every setting of `GRIDS` on every cell."""
    from label_cells import file_cells, synthetic_cells

    from reid_ray.labels.sweep import Setting, parse_grid, sweep

    for cell in chain(file_cells(files), synthetic_cells()):
        several = len(set(cell.camids.tolist()) - {UNKNOWN}) > 1
        settings = [setting for grid in GRIDS[: 1 + several] for setting in parse_grid(grid, Setting())]
        found = {"kind": "labelling", "set": str(cell), "world": cell.world, "n_images": len(cell.pids)}
        plain, known = (
            sweep(cell.features, settings, cell.camids, pids=cell.pids, tracklets=tracklets, device="cpu")
            for tracklets in (None, cell.tracklets)
        )
        for result, by_tracklets in zip(plain, known, strict=True):
            yield {**found, **result, "label_free, tracklets": by_tracklets["label_free"]}


def random_runs(out: Path, n_runs: int) -> None:
    """Train `n_runs` short runs of each of `METHODS` on synthetic people, with settings from `RANGES`."""
    from method_rows import BUDGET, TABLES

    from reid_ray.api import train
    from reid_ray.config import load_config
    from reid_ray.errors import UserError

    rows = [row for row in TABLES["unsupervised"] if row.title in METHODS]
    for number, row in product(range(n_runs), rows):
        rng = np.random.default_rng((number, METHODS.index(row.title)))
        eps, k1 = (rng.uniform(*RANGES[key]) for key in ("labels.eps", "labels.k1"))
        rate = np.exp(rng.uniform(*np.log(RANGES["training.lr"])))
        settings = [f"labels.eps={eps:.3f}", f"labels.k1={k1:.0f}", f"training.lr={rate:.2e}", "labels.objective=true"]
        place = [
            f"seed={number}",
            f"name={row.title.lower()}-{number}",
            f"output={out}",
            "evaluation.every=1",
            "training.epochs=5",
        ]
        try:
            run = train(load_config(row.recipe, [*BUDGET, *row.overrides, *settings, *place]))
        except UserError as error:  # degenerate labels end a run
            print(f"{row.title} {number}: {error}", flush=True)
        else:
            print(f"{row.title} {number}: mAP {run.metrics('evaluate')[-1]['mAP']:.3f}", flush=True)


def runs(folders: Sequence[Path]) -> Iterator[Result]:
    """The label-free score of every finished run below the folders, with its mAP."""
    from reid_ray.run import load_run
    from reid_ray.tuning.objectives import label_free_score

    for file in sorted(file for folder in folders for file in folder.rglob("checkpoints/model-last.pt")):
        run = load_run(file.parents[1])
        if run.finished and run.config.method.name != "source":
            data, backbone = run.config.data, run.config.model.backbone
            images = hashlib.sha256(data.model_dump_json(exclude=NOT_IMAGES).encode()).hexdigest()[:4]
            group = {"kind": "run", "set": f"{data.layout} {images}, {backbone}", "method": run.config.method.name}
            yield {**group, "run": str(run.path), "mAP": mean_ap(run), **label_free_score(run)}


def mean_ap(run: Any) -> float:
    """mAP of the last model on the query and gallery of the run, from its log or computed."""
    from reid_ray.evaluation.protocols import evaluate_table

    logged = [event["mAP"] for event in run.metrics("evaluate") if event["epoch"] == run.metrics("end")[-1]["epochs"]]
    if logged:
        return float(logged[-1])
    dataset = run.dataset
    query, gallery = (run.embed_table(table) for table in (dataset.query, dataset.gallery))
    return float(evaluate_table(query, gallery, dataset.table, ap=run.config.evaluation.ap).mAP)


def correlations(results: Sequence[Result], truths: Sequence[str]) -> str:
    """Markdown: Spearman's ρ of each score with each ground truth, a column per set and ground truth, and the
    choices."""
    named = by(results, "set")
    for name, group in list(named.items()):
        of_methods = by(group, "method")
        if len(of_methods) > 1:
            named |= {f"{name}, {method}": own for method, own in of_methods.items()}
    sets, groups = list(named), list(named.values())
    lines = [
        f"{at + 1}: {name}, {len(group)} results" for at, (name, group) in enumerate(zip(sets, groups, strict=True))
    ]
    headings = [f"{truth} ({at + 1})" for at in range(len(sets)) for truth in truths]
    lines += ["", f"| score | {' | '.join(headings)} |", "|---|" + "---|" * len(headings)]
    for score in ("model_score", *SCORES):
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
    """The ground-truth score of the result with the best label-free score, and the best one of all results."""
    return f"{max(results, key=lambda result: result['label_free'])[truth]:.3f} / {max(r[truth] for r in results):.3f}"


def table(results: Sequence[Result]) -> str:
    """Markdown: each score over all cells, then the cells in which `label_free` does not choose a good setting."""
    cells = by((result for result in results if result["kind"] == "labelling"), "set")
    lines = [
        f"{len(cells)} cells, {len(by(results, 'world'))} worlds, {len(results)} labellings",
        "",
        "| score | median ρ | worst ρ | ≥ 90 % of the best F1 | not below the median F1 | worst share of the best |",
        "|---|---|---|---|---|---|",
    ]
    for score in (*SCORES, "silhouette · share · √mix"):
        rhos, shares, fine = zip(*(judged(group, score) for group in cells.values()), strict=True)
        good = np.mean(np.array(shares) >= GOOD_SHARE)
        ranks = "– | –" if score == "published" else f"{np.median(rhos):.2f} | {min(rhos):.2f}"
        lines.append(f"| {score} | {ranks} | {good:.0%} | {np.mean(fine):.0%} | {min(shares):.2f} |")
    lines += ["", "| cell | images | ρ | chosen F1 | best | median |", "|---|---|---|---|---|---|"]
    for name, group in cells.items():
        rho, share, fine = judged(group, "label_free")
        if share < GOOD_SHARE or not fine:
            f1 = [result["pairwise_f1"] for result in group]
            lines.append(
                f"| {name} | {group[0]['n_images']:,} | {rho:.2f} | {share * max(f1):.3f} | {max(f1):.3f} | "
                f"{np.median(f1):.3f} |"
            )
    return "\n".join(lines)


def judged(group: Sequence[Result], score: str) -> tuple[float, float, bool]:
    """Spearman's ρ of a score with F1 in a cell, F1 of its choice over the best, and whether that is not below the
    median. `published` has no ρ: its choice is `PUBLISHED`."""
    f1 = np.array([result["pairwise_f1"] for result in group])
    if score == "published":
        values = np.array([all(result[key] == value for key, value in PUBLISHED.items()) for result in group], float)
    elif score == "silhouette · share · √mix":
        values = np.array(
            [
                max(result["silhouette"], 0) * result["clustered_share"] * min(result.get("camera_mix", 1), 1) ** 0.5
                for result in group
            ]
        )
    else:
        values = np.array([result.get(score, 0.0) for result in group], float)
    rho = float(spearmanr(values, f1).statistic) if values.std() and f1.std() else 0.0
    chosen = f1[values.argmax()]
    return rho, float(chosen / f1.max()), bool(chosen >= np.median(f1))


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
    """Group results by one of their values, in order of appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result[key], []).append(result)
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cells", "train", "runs", "table", "plot"))
    parser.add_argument("paths", type=Path, nargs="*", help=".npy files of features, or folders of runs")
    parser.add_argument("--runs", type=int, default=12, help="train: runs of each method")
    parser.add_argument("--log", type=Path, help="append results to this file, a JSON object per line; plot reads it")
    parser.add_argument("--out", type=Path, default=Path("label-free.svg"), help="the drawing")
    given = parser.parse_args()
    if given.what in ("table", "plot"):
        known = [json.loads(line) for line in given.log.read_text(encoding="utf-8").splitlines()]
        print(table(known)) if given.what == "table" else plot(known, given.out)
        return
    if given.what == "train":
        random_runs(given.paths[0], given.runs)
        return
    results = list(logged(runs(given.paths) if given.what == "runs" else labellings(given.paths), given.log))
    print(correlations(results, ("pairwise_f1", "mAP")) if given.what == "runs" else table(results))


def logged(results: Iterable[Result], log: Path | None) -> Iterator[Result]:
    for result in results:
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
        yield result


if __name__ == "__main__":
    main()
