"""Methods side by side with the same small budget: mAP and R1 on drawn people, or on data of yours.

    python benchmarks/methods.py uda                       # source-only, MT-baseline, ABMT, MMT, SpCL from drawn people
    python benchmarks/methods.py unsupervised --seeds 0    # ICE, ABMT, SpCL, CAP, cluster-contrast … without a source
    python benchmarks/methods.py ablations                 # the rows of thesis tables 4.3 to 4.5
    python benchmarks/methods.py unsupervised data.layout=market1501 data.root=FOLDER model.weights=torchvision
    python benchmarks/methods.py am0bh --images 38400 data.layout=market1501 data.root=FOLDER model.weights=torchvision
    python benchmarks/methods.py scr                       # partitions of tables 3.2 and 3.3
    python benchmarks/methods.py havana                    # rows of tables 3 and 5, on one extractor
    python benchmarks/methods.py video                     # TP and TPP of table 3.5; ICE on tracklets and on frames

Every run is kept in the folder `--out` and not made again; a killed benchmark goes on where it was. Settings after the
table's name change all runs. Runs of one network and seed share one source run. The model is that of the last epoch.
With --images, each run trains on that many images, whatever its batch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reid_ray.api import train
from reid_ray.config import Config, load_config
from reid_ray.data.table import ImageTable
from reid_ray.io.paths import Location
from reid_ray.run import Run
from reid_ray.training.datasets import query_and_gallery
from reid_ray.training.services import score
from reid_ray.training.source_runs import source_runs, started_from
from reid_ray.types import FloatArray

BUDGET = (
    "data={layout: synthetic, height: 64, width: 32, strong: {blur: 0, erase: 0.5}, "
    "synthetic: {n_train_ids: 60, n_test_ids: 40, n_cameras: 6, images_per_id: 16}}",
    "model.backbone=resnet18",
    "model.weights=null",
    "model.stem_relu=true",
    "model.bn_group=16",
    "model.bn_buffers=mean",
    "model.ema=0.99",
    "training.epochs=6",
    "training.iterations=30",
    "training.n_pids=8",
    "training.n_instances=4",
    "training.warmup_epochs=2",
    "training.warmup_factor=0.1",
    "training.lr_steps=[]",
    "evaluation={every: 0, at_start: true}",
    "runtime={backend: inline, threads: 1, device: auto}",
)
"""What all runs have in common: people, network, steps. What makes a method stays as its recipe says."""

FROM_SOURCE = (
    "source={layout: synthetic, strong: {blur: 0, erase: 0}, "
    "synthetic: {n_train_ids: 60, n_test_ids: 40, n_cameras: 2, images_per_id: 16, seed: 1000}}",
    "stages.source={epochs: 6, iterations: 30, sampler: other_cameras, warmup_epochs: 2, lr_steps: []}",
)
"""A labelled world of other people, lights and backgrounds, with two cameras, so that there is something to adapt."""

DRAWN = ("labels.k1=20", "labels.k2=6")
"""Of drawn people, who have 16 images each."""

RHO = 0.02
"""Of drawn people, in place of the recipes' 0.002 and 0.0016: 1.6 % of the pairs of 60 people are of one person, and of
those of Market-1501 0.13 %."""

ABMT = "abmt-uda"
PLAIN = "model.branches=[]"
ALIKE = "method.cross_branch=false"


@dataclass(frozen=True)
class Row:
    """A line of a table: a recipe, and what is changed of it."""

    title: str
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    on: str | None = None
    """Title of the row whose model it begins with, as frozen extractor or, with `measured`, as it is."""
    measured: tuple[str, ...] = ()
    """Other settings of `evaluation`, by which the model of the row `on` is measured: nothing is trained."""


def branches(*layout: str) -> str:
    return f"model.branches=[{', '.join(f'{{{branch}}}' for branch in layout)}]"


SUPERVISED = ("evaluation.at_start=false", "training.sampler=random_instances", "model.bn_group=null")
"""Of the tables with true identities."""

NO_ERASING = "data.strong={erase: 0, blur: 0}"

NO_HVD = ("method.distiller=false", "method.covariance_constraint=false")

FEATURE_STEPS = (
    "training.epochs=6",
    "training.iterations=400",
    "training.n_pids=16",
    "training.lr=1.0e-4",
    "training.warmup_epochs=0",
    "method.n_copies=2",
)
"""Of HAVANA on cached features: 2,400 steps where the paper has 60,000, at ten times its rate."""

VIDEO = (
    "data.synthetic={n_train_ids: 60, n_test_ids: 40, n_cameras: 6, tracklets_per_id: 4, tracklet_frames: [15, 40]}",
    "evaluation.protocol=mars",
    "evaluation.temporal_frames=15",
    "evaluation.at_start=false",
)
"""Walks of people who are drawn, or the data that is given; tracklets are compared by 15 frames each."""

TRACKLET_LABELS = ("labels.unit=tracklet", "labels.k1=8", "labels.k2=3")
"""A person has a few tracklets where there are many frames."""

TP, TPP = "evaluation.temporal_parts=1", "evaluation.temporal_parts=3"
EVEN, RANDOM = "evaluation.temporal_sampling=even", "evaluation.temporal_sampling=random"


def without(*terms: str) -> tuple[str, ...]:
    """HAVANA with only some terms of its bound (table 5)."""
    return (f"method.without=[{', '.join(terms)}]",)


KMEANS = ("labels.clusterer=kmeans", "labels.n_clusters=60")
AVERAGE, DEEPER_MAXIMUM = "pooling: avg", "pooling: max, n_extra: 1"

TABLES: dict[str, tuple[Row, ...]] = {
    "unsupervised": (
        Row("ICE", "ice", ("method.teacher_forwards=used",)),
        Row("ICE without cameras", "ice-agnostic", ("method.teacher_forwards=used",)),
        Row("cluster-contrast", "cluster-contrast"),
        Row("CAP", "cap", ("method.inter_from_epoch=2",)),
        Row("SpCL", "spcl"),
        Row("MT-baseline", "mt-baseline"),
        Row("MMT", "mmt"),
        Row("ABMT", "abmt"),
    ),
    "uda": (
        Row("MT-baseline", "mt-baseline-uda"),
        Row("ABMT", ABMT),
        Row("MMT", "mmt-uda", KMEANS),
        Row("SpCL", "spcl-uda", ("evaluation.at_start=false",)),  # from the initial weights: not a source model
    ),
    "am0bh": (
        Row("AM0", "am0bh", ("method.weight_triplet=0",)),
        Row("AM", "am0bh", ("method.weight_triplet=0", "method.margin=0.5")),
        Row("BH", "am0bh", ("method.weight_softmax=0",)),
        Row("AM0BH1", "am0bh", ("method.triplet_normalized=true",)),
        Row("AMBH", "am0bh", ("method.margin=0.5",)),
        Row("AM0BH", "am0bh"),
        Row("AM0BHsp", "am0bh", ("method.triplet_surrogate=softplus",)),
        Row("AM0BH-Attr", "am0bh-attr"),
    ),
    "scr": tuple(
        Row(partitions, "scr", (NO_ERASING, f"method.partitions={partitions}"))
        for partitions in (
            "p1",
            "p2(s2c2)",
            "p3(s3c3)",
            "p1+p2(s2c2)",
            "p1+p2(s2)+p3(s3)",
            "p1+p2(c2)+p3(c3)",
            "p1+p2(s2c2)+p3(s3c3)",
        )
    ),
    "havana": (
        Row("baseline", "source", ("method.label_smoothing=0.1", "method.margin=0.3")),
        Row("+ VNAE", "havana", ("method.triplet=mean", *NO_HVD)),
        Row("+ JS triplet", "havana", NO_HVD),
        Row("+ HVD", "havana", ("method.covariance_constraint=false",)),
        Row("+ covariance constraint", "havana"),
        Row(
            "L_reconx",
            "havana",
            ("method.triplet=none", *without("kl_z", "reconstruction_z", "kl_v")),
        ),
        Row("L_reconx + L_klz", "havana", ("method.triplet=none", *without("reconstruction_z", "kl_v"))),
        Row("L_reconx + L_klz + L_jst", "havana", without("reconstruction_z", "kl_v")),
        Row("L_reconx + L_klz + L_jst + L_reconz", "havana", without("kl_v")),
    ),
    "havana-settings": (
        *(
            Row(
                f"α = {alpha}, β = {beta}",
                "havana",
                (f"method.weight_elbo={alpha}", f"method.weight_divergence={beta}"),
            )
            for alpha in (0.1, 0.2, 0.5)
            for beta in (0.5, 1.0, 2.0)
        ),
        *(Row(f"γ = {margin}", "havana", (f"method.margin={margin}",)) for margin in (0.3, 0.4, 0.5, 0.6, 0.7)),
        *(Row(f"width {width}", "havana", (f"method.hidden_dim={width}",)) for width in (256, 512, 1024, 2048)),
        Row("without erasing", "havana", ("data.strong.erase=0",)),
    ),
    "video": (
        Row("SCR, TP(R)", on="SCR, TPP(E)", measured=(TP, RANDOM)),
        Row("SCR, TP(E)", on="SCR, TPP(E)", measured=(TP, EVEN)),
        Row("SCR, TPP(R)", on="SCR, TPP(E)", measured=(TPP, RANDOM)),
        Row("SCR, TPP(E)", "scr", (NO_ERASING, "training.sampler=random_instances", TPP, EVEN)),
        Row("ICE on frames", "ice", ("method.teacher_forwards=used",)),
        Row(
            "ICE on tracklets",
            "ice",
            ("method.teacher_forwards=used", "labels.unit=tracklet", "labels.k1=8", "labels.k2=3"),
        ),
    ),
    "ablations": (
        Row("MT-baseline + k-means", ABMT, (PLAIN, *KMEANS)),
        Row("MT-baseline + DBSCAN", ABMT, (PLAIN,)),
        Row("MT-baseline + k-means + AB", ABMT, (ALIKE, *KMEANS)),
        Row("MT-baseline + k-means + AB + cross-branch", ABMT, KMEANS),
        Row("MT-baseline + DBSCAN + AB", ABMT, (ALIKE,)),
        Row("ABMT", ABMT),
        Row("ABMT + stochastic data augmentation", ABMT, ("method.teacher_view=own",)),
        Row("ABMT + drop out", ABMT, ("method.dropout=0.5",)),
        Row("ABMT w/o different pooling", ABMT, (branches(AVERAGE, "pooling: avg, n_extra: 1"),)),
        Row("ABMT w/o extra bottleneck", ABMT, (branches(AVERAGE, "pooling: max"),)),
        Row("ABMT + one more branch", ABMT, (branches(AVERAGE, DEEPER_MAXIMUM, "pooling: avg, n_extra: 2"),)),
        Row("ABMT w/o L_ce", ABMT, ("method.weight_ce=0",)),
        Row("ABMT w/o L_sce", ABMT, ("method.weight_soft_ce=0",)),
        Row("ABMT w/o L_stri", ABMT, ("method.weight_soft_triplet=0",)),
    ),
}


SUPERVISED_TABLES = ("am0bh", "scr", "havana", "havana-settings")

COMMON = {
    "uda": FROM_SOURCE,
    "ablations": FROM_SOURCE,
    "am0bh": SUPERVISED,
    "scr": SUPERVISED,
    "havana": SUPERVISED,
    "havana-settings": SUPERVISED,
    "video": VIDEO,
}
"""What all rows of a table have in common beside the budget."""


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
        if title not in titles:  # perhaps a setting, which --only has swallowed
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
        at_start = "source-only" if COMMON.get(given.table) == FROM_SOURCE else "at the start"
        print(table(in_order, at_start=at_start), flush=True)


@dataclass(frozen=True)
class Result:
    """What a row comes to with one seed: its last evaluation, the one before training, and its last labels."""

    last: Mapping[str, Any]
    start: Mapping[str, Any] | None = None
    labels: Mapping[str, Any] | None = None


def result_of(given: argparse.Namespace, row: Row, seed: int) -> Result:
    """Train a row's run, or measure another row's model by other settings."""
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
    """Features of a run's query and gallery, which several rows are measured on."""
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
    if row.recipe == "havana":
        own = argparse.Namespace(**{**vars(given), "table": "havana"})
        baseline = train(configure(own, row_named("havana", "baseline"), seed))
        settings += [f"model.weights=run:{baseline.path}", *FEATURE_STEPS]
    config = load_config(row.recipe, settings)
    if config.data.layout != "synthetic" or given.table in SUPERVISED_TABLES:
        return config
    rho = (f"labels.rho={RHO}",) if config.labels.rho is not None else ()
    return load_config(row.recipe, [*DRAWN, *rho, *settings])


def with_shared_source(config: Config) -> Config:
    """The configuration to start from a source run that all runs of this network and seed share."""
    runs = source_runs(config)
    if len(runs) != 1:
        return config  # MMT's two sources are its own
    network = "-".join(f"{branch.pooling}{branch.n_extra}" for branch in config.model.branches) or "plain"
    run = runs[0].model_copy(update={"name": f"source-{network}-{config.seed}"})
    train(run)
    return started_from(config, [run])


def table(results: Mapping[str, Sequence[Result]], *, at_start: str) -> str:
    """Markdown: mean and, of several seeds, deviation of mAP and R1 in %, and what else the rows have.

    That is the same before training, the ARI of the last clusters (of images, also where tracklets are clustered), and
    the mean accuracy of attributes next to that of always saying the commoner value.
    """
    columns: dict[str, Callable[[Result], float | None]] = {
        "mAP": lambda result: result.last["mAP"],
        "R1": lambda result: result.last["R1"],
        f"{at_start}: mAP": lambda result: result.start and result.start["mAP"],
        f"{at_start}: R1": lambda result: result.start and result.start["R1"],
        "ARI": lambda result: result.labels and result.labels.get("frame_ari", result.labels.get("ari")),
        "attributes": lambda result: result.last.get("attribute_accuracy"),
        "commoner value": lambda result: result.last.get("attribute_baseline"),
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
    main()
