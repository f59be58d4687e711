"""Compare methods with the same small budget: mAP and R1 on synthetic people, or on your data.

    python benchmarks/methods.py uda                       # source-only, MT-baseline, ABMT, MMT, SpCL on synthetic data
    python benchmarks/methods.py unsupervised --seeds 0    # ICE, ABMT, SpCL, CAP, cluster-contrast … without a source
    python benchmarks/methods.py ablations                 # the rows of thesis tables 4.3 to 4.5
    python benchmarks/methods.py near_infrared             # DG-VAE's rows, AM0BH and ICE in a world like SYSU-MM01
    python benchmarks/methods.py thermal                   # the same in a world like RegDB
    python benchmarks/methods.py unsupervised data.layout=market1501 data.root=FOLDER model.weights=torchvision
    python benchmarks/methods.py am0bh --images 38400 data.layout=market1501 data.root=FOLDER model.weights=torchvision
    python benchmarks/methods.py scr                       # partitions of tables 3.2 and 3.3
    python benchmarks/methods.py is_gan                    # losses and parts: tables 2 and 3
    python benchmarks/methods.py havana                    # rows of tables 3 and 5, on one extractor
    python benchmarks/methods.py gcl                       # rows of thesis table 5.3, from one warm-up
    python benchmarks/methods.py havana-settings           # α, β, γ, widths and erasing: tables 4, 6, figures 8, 9
    python benchmarks/methods.py video                     # TP and TPP of table 3.5; ICE on tracklets and on frames

Runs are stored in the folder `--out` and not repeated; rerun a killed benchmark to resume it. Settings after the
table's name apply to all runs. Runs with the same network and seed share one source run. The model is that of the last
epoch. With --images, each run trains on that many images, whatever its batch size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from method_rows import BUDGET, COMMON, DRAWN, FROM_SOURCE, RHO, SUPERVISED_TABLES, TABLES, Row

from reid_ray.api import train
from reid_ray.config import Config, load_config
from reid_ray.data.table import ImageTable
from reid_ray.errors import UserError
from reid_ray.io.paths import Location
from reid_ray.run import Run
from reid_ray.training.datasets import query_and_gallery
from reid_ray.training.services import score
from reid_ray.training.source_runs import source_runs, started_from
from reid_ray.types import FloatArray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="TITLE", help="these rows of the table")
    parser.add_argument("--images", type=int, help="images that each run trains on, in its main stage")
    parser.add_argument("--out", default="runs/methods", help="folder of the runs")
    given = parser.parse_intermixed_args()
    titles = [row.title for row in TABLES[given.table]]
    for title in given.only or ():
        if title not in titles:  # possibly a setting that --only has consumed
            parser.error(f"no row '{title}' in this table, which has {', '.join(titles)}; settings come before --only")
    rows = [row for row in TABLES[given.table] if given.only is None or row.title in given.only]
    results: dict[str, list[Result]] = {}
    for row in sorted(rows, key=lambda row: bool(row.measured)):
        for seed in given.seeds:
            started = time.time()
            result = result_of(given, row, seed)
            results.setdefault(row.title, []).append(result)
            print(f"# {row.title}, seed {seed}: {time.time() - started:.0f} s", flush=True)
        in_order = {title: results[title] for title in titles if title in results}
        at_start = "source-only" if set(FROM_SOURCE) <= set(COMMON.get(given.table, ())) else "at the start"
        print(table(in_order, at_start=at_start), flush=True)


@dataclass(frozen=True)
class Result:
    """Results of a row with one seed: its last evaluation, the one before training, and its last labels."""

    last: Mapping[str, Any]
    start: Mapping[str, Any] | None = None
    labels: Mapping[str, Any] | None = None


def result_of(given: argparse.Namespace, row: Row, seed: int) -> Result:
    """Train a row's run, or evaluate another row's model with other settings."""
    if row.measured:
        run = train(configure(given, row_named(given.table, row.on), seed))
        settings = load_config(run.directory.config_file, row.measured).evaluation
        queries = query_and_gallery(run.dataset.table, settings)
        return Result(score(features_of(run, queries), queries, settings))
    run = train(with_shared_source(configure(given, row, seed)))
    evaluations, refreshes = run.metrics("evaluate"), run.metrics("refresh")
    start = evaluations[0] if evaluations[0]["epoch"] == 0 else None
    return Result(evaluations[-1], start, refreshes[-1] if refreshes else None)


def features_of(run: Run, rows: ImageTable) -> FloatArray:
    """Features of a run's query and gallery, which several rows share."""
    if run.path not in _FEATURES:
        _FEATURES.clear()
        _FEATURES[run.path] = run.embed_table(rows)
    return _FEATURES[run.path]


_FEATURES: dict[Location, FloatArray] = {}


def row_named(table: str, title: str | None) -> Row:
    return next(row for row in TABLES[table] if row.title == title)


def configure(given: argparse.Namespace, row: Row, seed: int) -> Config:
    """The configuration of a row's run."""
    name = "-".join("".join(c if c.isalnum() else " " for c in f"{given.table} {row.title}".lower()).split())
    settings = [*BUDGET, *COMMON.get(given.table, ()), *row.overrides, *given.overrides]
    settings += [f"seed={seed}", f"name={name}-{seed}", f"output={given.out}"]
    if given.images is not None:
        training = load_config(row.recipe, settings).training
        settings.append(f"training.iterations={max(1, round(given.images / training.epochs / training.batch_size))}")
    if row.start is not None:
        table, title = row.start
        own = argparse.Namespace(**{**vars(given), "table": table})
        settings.append(f"model.weights=run:{train(configure(own, row_named(table, title), seed)).path}")
    settings += row.fixed
    config = load_config(row.recipe, settings)
    if config.data.layout != "synthetic" or given.table in SUPERVISED_TABLES:
        return config
    rho = (f"labels.rho={RHO}",) if config.labels.rho is not None else ()
    return load_config(row.recipe, [*DRAWN, *rho, *settings])


def with_shared_source(config: Config) -> Config:
    """The configuration to start from a source run that all runs of this network and seed share."""
    runs = source_runs(config)
    if len(runs) != 1:
        return config  # MMT has two source models of its own
    network = "-".join(f"{branch.pooling}{branch.n_extra}" for branch in config.model.branches) or "plain"
    run = runs[0].model_copy(update={"name": f"source-{network}-{config.seed}"})
    train(run)
    return started_from(config, [run])


def table(results: Mapping[str, Sequence[Result]], *, at_start: str) -> str:
    """Markdown: mean and, for several seeds, standard deviation of mAP and R1 in %, and other results if available.

    These are mAP and R1 before training, the ARI of the last clusters (of images, even if tracklets are clustered), and
    the mean accuracy of attributes next to that of always predicting the most frequent value.
    """
    columns: dict[str, Callable[[Result], float | None]] = {
        "mAP": lambda result: result.last["mAP"],
        "R1": lambda result: result.last["R1"],
        f"{at_start}: mAP": lambda result: result.start and result.start["mAP"],
        f"{at_start}: R1": lambda result: result.start and result.start["R1"],
        "ARI": lambda result: result.labels and result.labels.get("frame_ari", result.labels.get("ari")),
        "attributes": lambda result: result.last.get("attribute_accuracy"),
        "most frequent value": lambda result: result.last.get("attribute_baseline"),
    }
    cells = {
        name: [
            spread(values) if None not in (values := [value(each) for each in row]) else "" for row in results.values()
        ]
        for name, value in columns.items()
    }
    shown = [name for name in columns if any(cells[name])]
    lines = [f"| | {' | '.join(shown)} |", "|---" * (1 + len(shown)) + "|"]
    for number, title in enumerate(results):
        lines.append(f"| {title} | {' | '.join(cells[name][number] for name in shown)} |")
    return "\n".join(lines)


def spread(values: Iterable[Any]) -> str:
    shares = [100 * value for value in values]
    deviation = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{statistics.mean(shares):.1f}{deviation}"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
