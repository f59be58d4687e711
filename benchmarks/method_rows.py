"""Rows of the tables of `methods.py`: recipes and overrides."""

from __future__ import annotations

from dataclasses import dataclass

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
"""Settings shared by all runs: people, network, steps. Settings that define a method are those of its recipe."""

FROM_SOURCE = (
    "source={layout: synthetic, strong: {blur: 0, erase: 0}, "
    "synthetic: {n_train_ids: 60, n_test_ids: 40, n_cameras: 2, images_per_id: 16, seed: 1000}}",
)
"""A labelled world with other people, lights and backgrounds, and two cameras, so that there is a domain gap."""

PRETRAINED = ("stages.source={epochs: 6, iterations: 30, sampler: other_cameras, warmup_epochs: 2, lr_steps: []}",)
"""Settings of the stage that trains on the source first, for methods that have one."""

DRAWN = ("labels.k1=20", "labels.k2=6")
"""For synthetic people, who have 16 images each."""

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
    "evaluation.at_start=false",
)
"""DG-VAE with a ResNet-18 at 64×32: twelve epochs of 30 steps of 8 + 8 images in all."""

SWAP = (
    *CROSS_MODAL,
    "stages.task={epochs: 6, lr: 5.0e-4, iterations: 30}",
    "stages.generate={epochs: 3, lr: 5.0e-4, iterations: 30}",
)
NO_SWAP = (*CROSS_MODAL, "method.swap=false", "stages.task={epochs: 9, lr: 5.0e-4, iterations: 30}")
"""Rows without the stage `generate` train longer in the first stage, so that all have equally many steps."""

WITHOUT_MODALITIES = (
    "model.bn_group=16",
    "training.epochs=12",
    "training.n_pids=4",
    "training.n_instances=4",
    "evaluation.at_start=false",
)

WORLD = "n_train_ids: 40, n_test_ids: 30, images_per_id: 24, height: 64, width: 32"

RHO = 0.02
"""For synthetic people, instead of the recipes' 0.002 and 0.0016: 1.6 % of the pairs of 60 people show one person,
compared with 0.13 % in Market-1501."""

ABMT = "abmt-uda"
PLAIN = "model.branches=[]"
ALIKE = "method.cross_branch=false"


@dataclass(frozen=True)
class Row:
    """A line of a table: a recipe and its overrides."""

    title: str
    recipe: str = ""
    overrides: tuple[str, ...] = ()
    start: tuple[str, str] | None = None
    """Table and title of the row whose model this one starts from."""
    fixed: tuple[str, ...] = ()
    """Overrides that come last, after those of the command line."""
    on: str | None = None
    """With `measured`: title of the row whose model is evaluated."""
    measured: tuple[str, ...] = ()
    """Settings of `evaluation` for the model of the row `on`; nothing is trained."""


def branches(*layout: str) -> str:
    return f"model.branches=[{', '.join(f'{{{branch}}}' for branch in layout)}]"


SUPERVISED = ("evaluation.at_start=false", "training.sampler=random_instances", "model.bn_group=null")
"""Settings of the tables with true identities."""

NO_ERASING = "data.strong={erase: 0, blur: 0}"

NO_HVD = ("method.distiller=false", "method.covariance_constraint=false")

FEATURE_STEPS = (
    "training.epochs=3",
    "training.iterations=400",
    "training.n_pids=16",
    "training.lr=3.0e-4",
    "training.warmup_epochs=0",
    "method.n_copies=2",
)
"""Settings for HAVANA on cached features: 1,200 steps where the paper has 60,000, at thirty times its rate."""

NO_SHUFFLING, NO_DOMAIN, NO_CLASSES = (f"method.weight_{term}=0" for term in ("part_shuffling", "domain", "classes"))

PARTS = ("1", "2", "3", "1,2", "1,3")
"""Values of `method.stripes` in table 3 of IS-GAN's paper."""

IS_GAN = ("training.n_pids=4", "training.n_instances=4")
IS_GAN_BASELINE = (*IS_GAN, "training.epochs=24", "training.lr_steps=[20]")
IS_GAN_STAGES = (
    *IS_GAN,
    "stages.identity.epochs=12",
    "stages.identity.lr_steps=[10]",
    "stages.disentangle.epochs=8",
    "training.epochs=4",
)
"""As many steps in all three stages as the baseline has in one; `training.iterations` is that of all stages."""

WARM_UP = ("training.epochs=3",)
"""Cluster-contrast that is stopped early, as GCL has the most to add then."""

GENERATION = (
    "training.epochs=6",
    "training.iterations=null",
    "training.n_pids=16",
    "training.n_instances=1",
    "stages.generate.epochs=20",
    "method.generator_width=16",
    "method.discriminator_width=16",
)
"""Passes over the images, 60 steps of 16 images each: 20 of the generator, then 6 of all together."""

VIDEO = (
    "data.synthetic={n_train_ids: 60, n_test_ids: 40, n_cameras: 6, tracklets_per_id: 4, tracklet_frames: [15, 40]}",
    "evaluation.protocol=mars",
    "evaluation.temporal_frames=15",
    "evaluation.at_start=false",
)
"""Tracklets of synthetic people, or of the given data; 15 frames per tracklet are compared."""

TRACKLET_LABELS = (
    "labels.unit=tracklet",
    "labels.k1=4",
    "labels.k2=2",
    "labels.min_samples=2",
    "labels.outliers=singleton",
)
"""Small neighbourhoods, since a person has many frames but few tracklets (four here); and a tracklet without neighbours
still shows one person."""

TP, TPP = "evaluation.temporal_parts=1", "evaluation.temporal_parts=3"
EVEN, RANDOM = "evaluation.temporal_sampling=even", "evaluation.temporal_sampling=random"


def without(*terms: str) -> tuple[str, ...]:
    """HAVANA with only some terms of its bound (table 5)."""
    return (f"method.without=[{', '.join(terms)}]",)


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
        (*NO_SWAP, "method.identity_code=mean", "method.identity_prior=none"),
    ),
    Row("2 + L_gmm", "dg-vae", (*NO_SWAP, "method.weight_large_margin=0")),
    Row("3 + L_gmm + L_lmc", "dg-vae", NO_SWAP),
    Row("4 AE", "dg-vae", (*SWAP, *AUTOENCODER, "method.ambiguity_code=mean")),
    Row("7 VAE", "dg-vae", (*SWAP, *AUTOENCODER)),
    Row("11 full without L_lmc", "dg-vae", (*SWAP, "method.weight_large_margin=0")),
    Row("12 full", "dg-vae", SWAP),
    Row("12 full, means over dimensions", "dg-vae", (*SWAP, "method.latent_reduction=mean")),
)
"""Numbered as in table 2 of DG-VAE's paper."""


def on_features(title: str, *overrides: str) -> Row:
    """A row of HAVANA on the features of the baseline."""
    return Row(title, "havana", overrides, start=("havana", "baseline"), fixed=FEATURE_STEPS)


def from_warm_up(title: str, *overrides: str) -> Row:
    """A row of GCL that starts from the baseline."""
    return Row(title, "gcl", (*GENERATION, *overrides), start=("gcl", "baseline"))


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
        Row("MT-baseline", "mt-baseline-uda", PRETRAINED),
        Row("ABMT", ABMT, PRETRAINED),
        Row("MMT", "mmt-uda", (*PRETRAINED, *KMEANS)),
        Row("SpCL", "spcl-uda", ("evaluation.at_start=false",)),  # from the initial weights: not a source model
    ),
    "near_infrared": CROSS_MODAL_ROWS,
    "thermal": CROSS_MODAL_ROWS,
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
    "is_gan": (
        Row("L_R", "is-gan-baseline", IS_GAN_BASELINE),
        *(
            Row(f"L_R, part {part}", "is-gan-baseline", (*IS_GAN_BASELINE, f"method.stripes=[{part}]"))
            for part in PARTS
        ),
        Row("L_R + L_U + L_S", "is-gan", (*IS_GAN_STAGES, NO_SHUFFLING, NO_DOMAIN, NO_CLASSES)),
        Row("+ L_PS", "is-gan", (*IS_GAN_STAGES, NO_DOMAIN, NO_CLASSES)),
        Row("+ L_PS + L_D", "is-gan", (*IS_GAN_STAGES, NO_CLASSES)),
        Row("+ L_PS + L_C", "is-gan", (*IS_GAN_STAGES, NO_DOMAIN)),
        Row("all", "is-gan", IS_GAN_STAGES),
        *(Row(f"all, part {part}", "is-gan", (*IS_GAN_STAGES, f"method.stripes=[{part}]")) for part in PARTS),
    ),
    "havana": (
        Row("baseline", "source", ("method.label_smoothing=0.1", "method.margin=0.3")),
        on_features("+ VNAE", "method.triplet=mean", *NO_HVD),
        on_features("+ JS triplet", *NO_HVD),
        on_features("+ HVD", "method.covariance_constraint=false"),
        on_features("+ covariance constraint"),
        on_features("L_reconx", "method.triplet=none", *without("kl_z", "reconstruction_z", "kl_v")),
        on_features("L_reconx + L_klz", "method.triplet=none", *without("reconstruction_z", "kl_v")),
        on_features("L_reconx + L_klz + L_jst", *without("reconstruction_z", "kl_v")),
        on_features("L_reconx + L_klz + L_jst + L_reconz", *without("kl_v")),
    ),
    "havana-settings": (
        *(
            on_features(f"α = {alpha}, β = {beta}", f"method.weight_elbo={alpha}", f"method.weight_divergence={beta}")
            for alpha in (0.1, 0.2, 0.5)
            for beta in (0.5, 1.0, 2.0)
        ),
        *(on_features(f"γ = {margin}", f"method.margin={margin}") for margin in (0.3, 0.4, 0.5, 0.6, 0.7)),
        *(on_features(f"width {width}", f"method.hidden_dim={width}") for width in (256, 512, 1024, 2048)),
        on_features("without erasing", "data.strong.erase=0"),
    ),
    "gcl": (
        Row("baseline", "cluster-contrast", WARM_UP),
        from_warm_up("+ L_gan", "method.weight_original=0", "method.weight_instance=0", "method.weight_generated=0"),
        from_warm_up("+ L_vi without generation", "method.generation=false"),
        from_warm_up("+ L_vi without generation, augmentation", "method.generation=false", "method.augment=true"),
        from_warm_up("+ L_gan + L_vi", "method.weight_instance=0", "method.weight_generated=0"),
        from_warm_up("+ L_gan + L_vi + L'_vi", "method.weight_generated=0"),
        from_warm_up("all"),
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
            ("method.teacher_forwards=used", *TRACKLET_LABELS),
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


SUPERVISED_TABLES = ("am0bh", "scr", "is_gan", "havana", "havana-settings")

COMMON: dict[str, tuple[str, ...]] = {
    "near_infrared": (
        f"data.synthetic={{{WORLD}, n_cameras: 6, spectrum: near_infrared}}",
        "evaluation.protocol=sysu_mm01",
    ),
    "thermal": (f"data.synthetic={{{WORLD}, n_cameras: 2, spectrum: thermal}}", "evaluation.protocol=regdb"),
    "uda": FROM_SOURCE,
    "ablations": (*FROM_SOURCE, *PRETRAINED),
    "am0bh": SUPERVISED,
    "scr": SUPERVISED,
    "is_gan": SUPERVISED,
    "havana": SUPERVISED,
    "havana-settings": SUPERVISED,
    "gcl": ("model.bn_group=null", "model.bn_buffers=first"),
    "video": VIDEO,
}
"""Settings shared by the runs of a table, in addition to the budget."""
