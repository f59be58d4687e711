"""Methods side by side with the same small budget: mAP and R1 on drawn people, or on data of yours.

    python benchmarks/methods.py uda                       # source-only, MT-baseline, ABMT, MMT, SpCL from drawn people
    python benchmarks/methods.py unsupervised --seeds 0    # ICE, ABMT, SpCL, CAP, cluster-contrast … without a source
    python benchmarks/methods.py ablations                 # the rows of thesis tables 4.3 to 4.5
    python benchmarks/methods.py near_infrared             # DG-VAE's rows, AM0BH and ICE in a world like SYSU-MM01
    python benchmarks/methods.py thermal                   # the same in a world like RegDB
    python benchmarks/methods.py unsupervised data.layout=market1501 data.root=FOLDER model.weights=torchvision

Every run is kept in the folder `--out` and not made again; a killed benchmark goes on where it was. Settings after the
table's name change all runs. Runs of one network and seed share one source run. The model is that of the last epoch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reid_ray.api import train
from reid_ray.config import Config, load_config
from reid_ray.run import Run
from reid_ray.training.source_runs import source_runs, started_from

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

CROSS_MODAL = (
    "model.bn_group=null",
    "training.n_pids=4",
    "training.n_instances=2",
    "training.warmup_epochs=0",
    "method.last_stride=2",
    "method.identity_dim=512",
    "method.ambiguity_dim=128",
    "method.decoder_channels=[256,256]",
    "training.lr=1.0e-4",
    "training.epochs=3",
    "stages.task={epochs: 6, lr: 5.0e-4, iterations: 30}",
    "stages.generate={epochs: 3, lr: 5.0e-4, iterations: 30}",
    "evaluation.at_start=false",
)
"""DG-VAE with a ResNet-18 at 64×32: twelve epochs of 30 steps of 8 + 8 images in all."""

NO_SWAP = ("method.swap=false", "stages.task={epochs: 9, lr: 5.0e-4, iterations: 30}")
"""Rows without the stage `generate` train longer in the first one, so that all have as many steps."""

WITHOUT_MODALITIES = (
    "model.bn_group=16",
    "training.epochs=12",
    "training.n_pids=4",
    "training.n_instances=4",
    "evaluation.at_start=false",
)

WORLD = "n_train_ids: 40, n_test_ids: 30, images_per_id: 24, height: 64, width: 32"

EXTRA: dict[str, tuple[str, ...]] = {
    "near_infrared": (
        f"data.synthetic={{{WORLD}, n_cameras: 6, spectrum: near_infrared}}",
        "evaluation.protocol=sysu_mm01",
    ),
    "thermal": (f"data.synthetic={{{WORLD}, n_cameras: 2, spectrum: thermal}}", "evaluation.protocol=regdb"),
    "uda": FROM_SOURCE,
    "ablations": FROM_SOURCE,
}
"""What the runs of a table have in common besides the budget."""

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
    recipe: str
    overrides: tuple[str, ...] = ()


def branches(*layout: str) -> str:
    return f"model.branches=[{', '.join(f'{{{branch}}}' for branch in layout)}]"


KMEANS = ("labels.clusterer=kmeans", "labels.n_clusters=60")
AVERAGE, DEEPER_MAXIMUM = "pooling: avg", "pooling: max, n_extra: 1"

AUTOENCODER = (
    "method.identity_code=mean",
    "method.identity_prior=none",
    "method.weight_decoded_identity=0",
    "method.weight_cycle=0",
)

CROSS_MODAL_ROWS = (
    Row("ICE", "ice", ("method.teacher_forwards=used", *WITHOUT_MODALITIES)),
    Row("AM0BH", "am0bh", ("training.lr=3.5e-4", *WITHOUT_MODALITIES)),
    Row(
        "1 baseline",
        "dg-vae",
        (*CROSS_MODAL, *NO_SWAP, "method.identity_code=mean", "method.identity_prior=none"),
    ),
    Row("2 + L_gmm", "dg-vae", (*CROSS_MODAL, *NO_SWAP, "method.weight_large_margin=0")),
    Row("3 + L_gmm + L_lmc", "dg-vae", (*CROSS_MODAL, *NO_SWAP)),
    Row("4 AE", "dg-vae", (*CROSS_MODAL, *AUTOENCODER, "method.ambiguity_code=mean")),
    Row("7 VAE", "dg-vae", (*CROSS_MODAL, *AUTOENCODER)),
    Row("11 full without L_lmc", "dg-vae", (*CROSS_MODAL, "method.weight_large_margin=0")),
    Row("12 full", "dg-vae", CROSS_MODAL),
    Row("12 full, means over dimensions", "dg-vae", (*CROSS_MODAL, "method.latent_reduction=mean")),
)
"""Numbered as in table 2 of DG-VAE's paper."""

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
    "near_infrared": CROSS_MODAL_ROWS,
    "thermal": CROSS_MODAL_ROWS,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="TITLE", help="these rows of the table")
    parser.add_argument("--out", default="runs/methods", help="folder of the runs")
    given = parser.parse_intermixed_args()
    titles = [row.title for row in TABLES[given.table]]
    for title in given.only or ():
        if title not in titles:  # perhaps a setting, which --only has swallowed
            parser.error(f"no row '{title}' in this table, which has {', '.join(titles)}; settings come before --only")
    rows = [row for row in TABLES[given.table] if given.only is None or row.title in given.only]
    results: dict[str, list[Run]] = {}
    for row in rows:
        for seed in given.seeds:
            config = configure(given.table, row, seed, given.out, given.overrides)
            started = time.time()
            results.setdefault(row.title, []).append(train(with_shared_source(config)))
            print(f"# {row.title}, seed {seed}: {time.time() - started:.0f} s", flush=True)
        print(
            table(results, at_start="source-only" if EXTRA.get(given.table) == FROM_SOURCE else "at the start"),
            flush=True,
        )


def configure(table: str, row: Row, seed: int, out: str, overrides: Sequence[str]) -> Config:
    """The configuration of a row's run."""
    name = "-".join("".join(c if c.isalnum() else " " for c in f"{table} {row.title}".lower()).split())
    common = (*BUDGET, *EXTRA.get(table, ()), *row.overrides, *overrides)
    settings = [*common, f"seed={seed}", f"name={name}-{seed}", f"output={out}"]
    config = load_config(row.recipe, settings)
    if config.data.layout != "synthetic":
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


def table(results: dict[str, list[Run]], *, at_start: str) -> str:
    """Markdown: mean and, of several seeds, deviation of mAP and R1 in %; after training and, if evaluated, before."""
    lines = [f"| | mAP | R1 | {at_start}: mAP | R1 |", "|---|---|---|---|---|"]
    for title, runs in results.items():
        evaluations = [run.metrics("evaluate") for run in runs]
        before = all(each[0]["epoch"] == 0 for each in evaluations)
        cells = [spread(each[-1][key] for each in evaluations) for key in ("mAP", "R1")]
        cells += [spread(each[0][key] for each in evaluations) if before else "" for key in ("mAP", "R1")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Iterable[float]) -> str:
    shares = [100 * value for value in values]
    deviation = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{statistics.mean(shares):.1f}{deviation}"


if __name__ == "__main__":
    main()
