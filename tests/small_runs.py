"""Runs that train in seconds, workers that are threads, and what tests ask of run directories."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from reid_ray.config import load_config
from reid_ray.errors import UserError
from reid_ray.io.paths import as_readable
from reid_ray.training.checkpoint import checkpoint_files
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.metrics import read_metrics
from reid_ray.training.rundir import RunDirectory

TINY = (
    "data.height=32",
    "data.width=16",
    "data.loader_threads=1",
    "data.synthetic.n_train_ids=8",
    "data.synthetic.n_test_ids=4",
    "data.synthetic.n_cameras=2",
    "data.synthetic.images_per_id=6",
    "data.synthetic.height=64",
    "data.synthetic.width=32",
    "labels.k1=6",
    "labels.k2=2",
    "labels.eps=0.7",
    "labels.min_samples=2",
    "training.n_pids=4",
    "training.n_instances=4",
    "training.epochs=2",
    "training.iterations=4",
    "training.log_every=1",
    "training.checkpoint_every=100",
    "training.keep_checkpoints=1",
    "model.backbone=resnet18_narrow",
    "model.bn_group=4",
    "evaluation.every=0",
    "evaluation.at_start=false",
    "runtime.n_workers=1",
    "runtime.threads=1",
    "runtime.max_failures=2",
    "runtime.backend=inline",
)
"""Overrides of the `demo` recipe that make an epoch take about a second."""

WIDTH = 64
"""Numbers in a feature of the tiny run."""


SOURCE = (
    "source={layout: synthetic, synthetic: {seed: 3, n_train_ids: 5, n_cameras: 2, images_per_id: 5}}",
    "stages.source={epochs: 1, iterations: 2}",
)
"""A small labelled source, and a short stage on it."""

BRANCHES = "model.branches=[{pooling: avg}, {pooling: max, n_extra: 1}]"
SAMPLED = "training.sampler=other_cameras"

CROSS_MODAL = (
    "data.synthetic.spectrum=near_infrared",
    "data.synthetic.n_cameras=6",
    "data.synthetic.images_per_id=8",
    "training.sampler=shared_identities",
    "stages.task={epochs: 1, iterations: 2, warmup_epochs: 0}",
    "stages.generate={epochs: 1, iterations: 2, warmup_epochs: 0}",
    "training.optimizers={classifier: {optimizer: sgd, lr: 0.01}, prior: {weight_decay: 0}}",
)
"""Two modalities, and short stages of DG-VAE on them."""
SHUFFLED = "training.sampler=shuffle"
SHORT = "{epochs: 1, iterations: 2, warmup_epochs: 0}"
GCL = "generator_width: 4, dilations: [1, 2], hidden_dim: 16, discriminator_width: 4, n_scales: 2"

SLOW = "training.lr=1.0e-9"
"""For GCL. What an untrained generator draws is nearly the same for all images, and batch norms of such images magnify
any difference in the weights by 10⁵. At this rate gradients, which the optimizers' moments keep, agree to 10⁻¹⁰; at
10⁻⁶ a difference of 10⁻¹⁵ grows a hundredfold a step."""

METHOD_RUNS = {
    "ice": (),
    "ice-tracklets": (
        "labels.unit=tracklet",
        "data.synthetic.tracklets_per_id=4",
        "data.synthetic.tracklet_frames=[1, 3]",
        "evaluation.protocol=mars",
    ),
    "abmt": (
        "method={name: abmt, dropout: 0.2, teacher_view: own}",
        BRANCHES,
        "training.reset_optimizer=true",
        SAMPLED,
    ),
    "mmt": ("method={name: mmt}", "labels.variant=cvpr17", SAMPLED),
    "mmt-uda": (
        "method={name: mmt}",
        "labels.source_weight=0.1",
        *SOURCE,
        "stages.source_2={epochs: 1, iterations: 2}",
    ),
    "spcl": ("method={name: spcl}", "labels.outliers=singleton", "labels.reliability=0.02", SAMPLED),
    "spcl-joint": (
        "method={name: spcl}",
        "labels.outliers=singleton",
        "labels.reliability=0.02",
        "source={layout: synthetic, synthetic: {seed: 7, n_train_ids: 5, images_per_id: 6}}",
        SAMPLED,
    ),
    "cap": ("method={name: cap, inter_from_epoch: 1}", "training.sampler=camera_proxies"),
    "cluster_contrast": ("method={name: cluster_contrast}", "model.pooling=gem", SAMPLED),
    "am0bh": (
        f"method={{name: am0bh, weight_attributes: 0.25, piece_dim: 1, attribute_values: {[2] * 30}}}",
        "training.sampler=random_instances",
    ),
    "scr": (
        "method={name: scr, partitions: 'p1+p2(s2c2)', reduced_dim: 16, n_identities: 8}",
        "training.sampler=random_instances",
        "training.optimizer=amsgrad",
    ),
    "is_gan": (
        "method={name: is_gan, n_identities: 8, stripes: [2], identity_dim: 8, unrelated_dim: 4, noise_dim: 4, "
        "generator_channels: [8, 8, 8, 8, 3], discriminator_channels: [4, 8]}",
        "stages.identity={epochs: 1, iterations: 2}",
        "stages.disentangle={epochs: 1, iterations: 2}",
        "training.sampler=random_instances",
        "training.optimizer=amsgrad",
        "training.optimizers.discriminator={optimizer: sgd}",
    ),
    "gcl": (
        f"method={{name: gcl, {GCL}}}",
        SHUFFLED,
        SLOW,
        "training.optimizers.identity={optimizer: sgd, nesterov: true}",
        f"stages.warmup={SHORT}",
        f"stages.generate={SHORT}",
    ),
    "gcl-uda": (
        f"method={{name: gcl, {GCL}, embedding_dim: 16, code_split: stripes, feature_views: new+cycle, angles: six, "
        "gan_loss: log, instance_positive: feature, positives: shared, negatives_from: original, bn_views: real}",
        SHUFFLED,
        SLOW,
        *SOURCE,
        f"stages.generate={SHORT}",
    ),
    "gcl-contrast": ("method={name: gcl, generation: false, augment: true, warmup: false}", SHUFFLED),
    "scr-video": (
        "method={name: scr, partitions: 'p2(s2c2)', reduced_dim: 16, n_identities: 8, clip_frames: 2}",
        "data.synthetic.tracklets_per_id=4",
        "data.synthetic.tracklet_frames=[1, 3]",
        "training.sampler=random_instances",
        "evaluation={protocol: mars, temporal_parts: 3, temporal_frames: 6}",
    ),
    "havana": (
        "method={name: havana, n_copies: 2, n_identities: 8, variation_dim: 8, hidden_dim: 32}",
        "stages.baseline={epochs: 1, warmup_epochs: 0}",
    ),
    "dg_vae": (
        "method={name: dg_vae, identity_dim: 16, ambiguity_dim: 8, decoder_channels: [8], n_identities: 8}",
        "method.idi_neck=bn",
        *CROSS_MODAL,
    ),
    "source": ("method={name: source}", BRANCHES, "target={layout: synthetic, synthetic: {seed: 7, n_train_ids: 4}}"),
}
"""Overrides of the tiny run, by method and form, with what is peculiar to it switched on."""


def tiny_config(output, *overrides):
    """The configuration of a small run in the folder `output`."""
    return load_config("demo", [*TINY, f"output={output}", *overrides])


def begun_directory(config):
    """The directory of a run that has written its configuration, and has trained nothing."""
    directory = RunDirectory.of(config)
    directory.create(config, {})
    return directory


def newest_state(directory):
    """Everything that the newest checkpoint holds."""
    return torch.load(as_readable(checkpoint_files(directory.checkpoints)[0]), weights_only=True)


def assert_bit_equal(first, second, where="state"):
    """Every number of two states, save the length of the log, which holds seconds."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            if key != "metrics":
                assert_bit_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_bit_equal(a, b, f"{where}.{i}")
    else:
        assert first == second, where


def numbers_of(state, at_most=2000):
    """Name → float64 numbers of every weight and optimizer state: of a large tensor some, and its norm."""
    tensors = {f"{name}.{key}": value for name, module in state["modules"].items() for key, value in module.items()}
    for name, optimizer in state["optimizers"].items():
        for key, slots in optimizer["state"].items():
            tensors.update({f"{name}.adam.{key}.{slot}": value for slot, value in slots.items()})

    def sample(tensor):
        flat = tensor.double().flatten()
        return torch.cat([flat[:: max(1, len(flat) // at_most)], flat.norm()[None]])

    return {name: sample(tensor) for name, tensor in tensors.items()}


def largest_relative_difference(expected, found):
    """Over the tensors of two `numbers_of`: |a − b| / |a|.

    Rounding is all there is of the gradient of a bias before a batch norm, and so of the bias itself where it began as
    zero; numbers so small are compared as if they were larger.
    """
    assert expected.keys() == found.keys()

    def relative(name):
        least = 1e-9 if ".adam." in name else 1e-5
        return float((expected[name] - found[name]).norm() / expected[name].norm().clamp_min(least))

    return max(map(relative, expected))


def wait_for(directory, wanted, process, since, *, poll_seconds=0.005):
    """Until the log holds an event that `wanted` accepts, written by a process that was started at `since`."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if any(wanted(event) for event in read_metrics(directory.metrics_file) if event["time"] >= since):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(poll_seconds)
    raise AssertionError("the run never got there")


def steps_logged(directory):
    return [event["global_step"] for event in read_metrics(directory.metrics_file) if event["event"] == "step"]


class ThreadContext(DistributedContext):
    """A worker among threads of this process; what it gathers has no gradient. test_distributed.py has processes."""

    def __init__(self, rank, size, slots, barrier):
        super().__init__(rank, size)
        self.__dict__.update(slots=slots, barrier=barrier)

    def all_gather_objects(self, value):
        self.slots[self.rank] = value
        self.barrier.wait(timeout=60)
        values = [self.slots[rank] for rank in range(self.size)]
        self.barrier.wait(timeout=60)
        return values

    def broadcast_object(self, value):
        return self.all_gather_objects(value)[0]

    def all_reduce_max(self, number):
        return max(self.all_gather_objects(number))

    def all_gather(self, local):
        return torch.cat(self.all_gather_objects(local.detach()))

    def all_reduce_gradients(self, parameters):
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = torch.stack(self.all_gather_objects(parameter.grad)).sum(0)


def thread_contexts(size):
    slots, barrier = {}, threading.Barrier(size)
    return [ThreadContext(rank, size, slots, barrier) for rank in range(size)]


def on_workers(size, function):
    """`function(context)` on each of `size` workers; their answers, or what ended them, in rank order."""

    def attempt(context):
        try:
            return function(context)
        except (UserError, KeyboardInterrupt) as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(attempt, thread_contexts(size)))
