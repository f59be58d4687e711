"""Records what every recipe computes, so that a change of structure can show that it changes no number.

    python tests/golden/record.py            # writes tests/golden/record.json
    python tests/golden/record.py --check    # trains again and compares

Each case trains a recipe in float64 for two epochs of a few steps, inline, on one thread, on synthetic images, with a
refresh of the labels before each epoch. The record holds the loss and its terms at each step (of all stages, in order),
a digest of the labels of each epoch, and projections of the final features.

Another processor or another PyTorch rounds differently, and training amplifies that to a few 1e-8. Where `--check`
finds such differences, check out the commit of the record on the same machine and run it there: the two must agree.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import torch

from reid_ray.api import train
from reid_ray.config import load_config
from reid_ray.data.views import normalize, resize
from reid_ray.inference.extraction import model_columns
from reid_ray.methods import stages_of
from reid_ray.training import loop
from reid_ray.training.metrics import MetricsLog

RECORD = Path(__file__).with_name("record.json")

TOLERANCE = 1e-9
"""Relative difference of two float64 results that is rounding."""

COMMON = (
    "data.layout=synthetic",
    "data.height=32",
    "data.width=16",
    "data.loader_threads=1",
    "data.synthetic={n_train_ids: 8, n_test_ids: 4, n_cameras: 2, images_per_id: 6, height: 64, width: 32}",
    "labels.k1=6",
    "labels.k2=2",
    "labels.min_samples=2",
    "training.n_pids=4",
    "training.n_instances=4",
    "training.epochs=2",
    "training.iterations=3",
    "training.log_every=1",
    "training.precision=float64",
    "model.backbone=resnet18",
    "model.weights=null",
    "model.bn_group=4",
    "evaluation.every=null",
    "runtime={backend: inline, n_workers: 1, threads: 1, device: cpu}",
)

SOURCE = "{layout: synthetic, synthetic: {seed: 7, n_train_ids: 6, images_per_id: 6, height: 64, width: 32}}"
SOURCE_STAGE = "{epochs: 1, iterations: 3, warmup_epochs: 0, sampler: cameras_first, lr_steps: []}"
ADAPTATION = (f"source={SOURCE}", f"stages={{source: {SOURCE_STAGE}}}")
FIXED_EPS = ("labels.eps=0.7",)
SHARE_EPS = ("labels.rho=0.05",)
SHORT = "{epochs: 1, iterations: 3, warmup_epochs: 0, lr_steps: []}"
TRACKLETS = ("data.synthetic.tracklets_per_id=4", "data.synthetic.tracklet_frames=[1, 3]")
SMALL_GCL = (
    "method={name: gcl, generator_width: 4, dilations: [1, 2], hidden_dim: 16, discriminator_width: 4, n_scales: 2}",
    "training.n_instances=1",
    "training.optimizers.identity.lr=1.0e-9",  # images of an untrained generator magnify rounding (tests/small_runs.py)
    "training.lr=1.0e-9",
    f"stages.generate={SHORT}",
    *FIXED_EPS,
)

CASES = {
    "abmt": ("abmt", SHARE_EPS),
    "abmt-dropout": ("abmt", (*SHARE_EPS, "method.dropout=0.2", "method.teacher_view=own")),
    "abmt-uda": ("abmt-uda", (*SHARE_EPS, *ADAPTATION)),
    "am0bh": ("am0bh", ()),
    "am0bh-attr": ("am0bh-attr", ("method.piece_dim=1",)),
    "cap": ("cap", (*FIXED_EPS, "method.inter_from_epoch=1")),
    "cluster-contrast": ("cluster-contrast", FIXED_EPS),
    "demo": ("demo", FIXED_EPS),
    "demo-resumed": ("demo", (*FIXED_EPS, "training.checkpoint_every=1")),
    "dg-vae": (
        "dg-vae",
        (
            "method={name: dg_vae, identity_dim: 16, ambiguity_dim: 8, decoder_channels: [8]}",
            "data.synthetic.spectrum=near_infrared",
            "data.synthetic.n_cameras=6",
            "data.synthetic.images_per_id=12",
            "evaluation.protocol=sysu_mm01",
            f"stages={{task: {SHORT}, generate: {SHORT}}}",
        ),
    ),
    "gcl": ("gcl", (*SMALL_GCL, f"stages.warmup={SHORT}")),
    "gcl-uda": ("gcl-uda", (*SMALL_GCL, f"source={SOURCE}", f"stages.source={SHORT}")),
    "havana": (
        "havana",
        ("method={name: havana, n_copies: 2, variation_dim: 8, hidden_dim: 32}", f"stages.baseline={SHORT}"),
    ),
    "ice": ("ice", FIXED_EPS),
    "ice-agnostic": ("ice-agnostic", FIXED_EPS),
    "ice-stale": ("ice", (*FIXED_EPS, "labels.staleness=1")),
    "ice-supervised": ("ice-supervised", FIXED_EPS),
    "is-gan": (
        "is-gan",
        (
            "method={name: is_gan, stripes: [2], identity_dim: 8, unrelated_dim: 4, noise_dim: 4, "
            "generator_channels: [8, 8, 8, 8, 3], discriminator_channels: [4, 8]}",
            f"stages={{identity: {SHORT}, disentangle: {SHORT}}}",
        ),
    ),
    "mmt": ("mmt", SHARE_EPS),
    "mmt-uda": ("mmt-uda", (*ADAPTATION, f"stages.source_2={SOURCE_STAGE}", "labels.n_clusters=6")),
    "mt-baseline": ("mt-baseline", SHARE_EPS),
    "mt-baseline-uda": ("mt-baseline-uda", (*SHARE_EPS, *ADAPTATION)),
    "scr": ("scr", ("method.partitions=p1+p2(s2c2)", "method.reduced_dim=16")),
    "scr-video": (
        "scr-video",
        ("method.partitions=p2(s2c2)", "method.reduced_dim=16", "method.clip_frames=2", *TRACKLETS),
    ),
    "source": ("source", (f"target={SOURCE}",)),
    "spcl": ("spcl", FIXED_EPS),
    "spcl-uda": ("spcl-uda", (*FIXED_EPS, f"source={SOURCE}")),
    "tune-demo": ("tune-demo", FIXED_EPS),
}
"""Name → recipe and overrides on top of `COMMON`."""

KILLED_AT = {"demo-resumed": 5}
"""Cases that are interrupted after this step and resumed."""


class KilledError(Exception):
    pass


@contextmanager
def logged_events():
    """The events of all runs in the block with unrounded numbers, in the order in which they happen."""
    events, write = [], MetricsLog.write

    def record(log, event, **fields):
        events.append({"event": event, **fields})
        write(log, event, **fields)

    MetricsLog.write = record
    try:
        yield events
    finally:
        MetricsLog.write = write


@contextmanager
def rounded_between_stages():
    """Round all weights to float32 when a stage begins.

    The record was made when a source stage was a run of its own, whose model was handed on through a network in
    float32. Stages hand on float64; with this rounding they compute what those runs computed.
    """
    initialise = loop.initialise

    def round_and_initialise(modules, stage):
        with torch.no_grad():
            for module in modules.values():
                for tensor in module.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.copy_(tensor.float())
        initialise(modules, stage)

    loop.initialise = round_and_initialise
    try:
        yield
    finally:
        loop.initialise = initialise


def run_case(name, folder):
    """What one case computes, as plain JSON values."""
    recipe, overrides = CASES[name]
    config = load_config(recipe, [*COMMON, *overrides, f"name={name}", f"output={folder}"])
    killed_at = KILLED_AT.get(name)

    def kill(event):
        if event["event"] == "step" and event["global_step"] == killed_at:
            raise KilledError

    has_source = any(stage.name == "source" for stage in stages_of(config))
    with logged_events() as events, rounded_between_stages() if has_source else nullcontext():
        if killed_at:
            with suppress(KilledError):
                train(config, listener=kill)
        run = train(config)
    steps = [event for event in events if event["event"] == "step"]
    if killed_at:  # the step that was logged, then lost, then done again
        steps = [*steps[: killed_at - 1], *steps[killed_at:]]
    return {
        "losses": [{"loss": float(step["loss"]), **terms(step)} for step in steps],
        "labels": labels_in_force(run, config.training.epochs),
        "features": feature_projections(run),
    }


def labels_in_force(run, n_epochs):
    """Digests of the labels that each epoch trained on: its own or, where they are made once, those before."""
    n_files = len(list(run.directory.labels.glob("epoch-*.parquet")))
    return [labels_digest(run.labels(min(epoch, n_files - 1))) for epoch in range(n_epochs)]


def terms(step):
    return {name: float(value) for name, value in step["terms"].items()}


def labels_digest(table):
    return hashlib.sha256(np.ascontiguousarray(table["label"].to_numpy()).tobytes()).hexdigest()[:16]


@torch.inference_mode()
def feature_projections(run, n_images=8, n_directions=4):
    """Final float64 features of some query images, projected on fixed directions."""
    data = run.config.data
    rows = run.dataset.query.take(np.arange(n_images))
    images = [run.dataset.images.read(path) for path in rows.paths]
    batch = normalize(torch.stack([resize(image, data.height, data.width) for image in images])).double()
    columns = {name: torch.from_numpy(values) for name, values in model_columns(run.model, rows).items()}
    features = run.model.embed(batch, **columns).numpy()
    directions = np.random.default_rng(0).standard_normal((features.shape[1], n_directions))
    return (features @ directions).ravel().tolist()


def differences(expected, found, where=""):
    """One line for each place where two records differ by more than rounding."""
    if isinstance(expected, dict):
        if expected.keys() != found.keys():
            return [f"{where}: has {sorted(found)}, expected {sorted(expected)}"]
        return [line for key in expected for line in differences(expected[key], found[key], f"{where}/{key}")]
    if isinstance(expected, list):
        if len(expected) != len(found):
            return [f"{where}: has {len(found)} entries, expected {len(expected)}"]
        pairs = zip(expected, found, strict=True)
        return [line for i, (a, b) in enumerate(pairs) for line in differences(a, b, f"{where}/{i}")]
    if isinstance(expected, float):
        close = abs(expected - found) <= TOLERANCE * max(1.0, abs(expected))
    else:
        close = expected == found
    return [] if close else [f"{where}: {found!r}, expected {expected!r}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the record instead of writing it")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES), help="cases to run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    failures = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            found = run_case(name, folder)
        if options.check:
            lines = differences(record[name], found, name)
            failures += lines
            print(f"{name}: {'equal' if not lines else lines[0]}", flush=True)
        else:
            record[name] = found
            print(f"{name}: {len(found['losses'])} steps", flush=True)
    if not options.check:
        RECORD.write_text(json.dumps({name: record[name] for name in CASES if name in record}, indent=1) + "\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
