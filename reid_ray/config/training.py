"""Training, evaluation and runtime: epochs, batches, optimisation, checkpoints, protocols, processes and devices."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from reid_ray.config.base import Overrides, Search, Section, first_error


class OptimizerConfig(Section):
    """One optimizer: kind, learning rate and schedule."""

    optimizer: Literal["adam", "amsgrad", "sgd"] = "adam"
    """Kind of optimizer."""
    lr: Annotated[float, Search(1e-4, 1e-3, log=True)] = Field(default=3.5e-4, gt=0)
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam and AMSGrad: decay rates of the two moments."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD: momentum."""
    nesterov: bool = False
    """SGD: Nesterov momentum."""
    weight_decay: Annotated[float, Search(5e-5, 5e-3, log=True)] = Field(default=5e-4, ge=0)
    """L2 penalty, added to the gradient (as in Adam, not AdamW)."""
    warmup_epochs: int = Field(default=10, ge=0)
    """Epochs over which the learning rate grows linearly from `warmup_factor`·lr to lr, per epoch."""
    warmup_factor: float = Field(default=0.1, gt=0, le=1)
    """Learning-rate factor at the start of the warm-up."""
    lr_steps: tuple[int, ...] = ()
    """Epochs at which the learning rate is multiplied by `lr_gamma`."""
    lr_gamma: float = Field(default=0.1, gt=0, le=1)
    """Learning-rate factor at each of `lr_steps`."""

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch: linear warm-up by epoch, then constant, reduced at each step."""
        rate = self.lr * self.lr_gamma ** sum(epoch >= step for step in self.lr_steps)
        if epoch >= self.warmup_epochs:
            return rate
        share = epoch / self.warmup_epochs
        return rate * (self.warmup_factor * (1 - share) + share)


class StageConfig(OptimizerConfig):
    """One stage of training: duration, batches and optimizers."""

    epochs: int = Field(default=40, ge=1)
    """Epochs; labels from clusters are refreshed before each."""
    iterations: int | None = Field(default=400, ge=1)
    """Optimizer steps per epoch; null = one pass over the images (over the identities, for P×K samplers)."""
    n_pids: int = Field(default=8, ge=1)
    """P: (pseudo-)identities in the global batch."""
    n_instances: int = Field(default=4, ge=1)
    """K: images (or tracklets) of each identity."""
    sampler: Literal[
        "cameras_first", "other_cameras", "camera_proxies", "random_instances", "shared_identities", "shuffle"
    ] = "cameras_first"
    """Sampler of the P×K batches. `cameras_first`: K images of an identity, one of each of its cameras first (ICE).
    `other_cameras`: any image, and K−1 from other cameras; an identity with a single image fills one slot (MMT, ABMT,
    SpCL, cluster-contrast). `camera_proxies`: K images of one identity in one camera (CAP). `random_instances`: K
    random images of an identity. `shared_identities`: K images of the same identities in every stream (pairs, two
    modalities). `shuffle`: all images in random order, without identities."""
    reset_optimizer: bool = False
    """Reset the optimizer state at each refresh (released codes of MMT and ABMT)."""
    optimizers: Annotated[dict[str, dict[str, Any]], Overrides(OptimizerConfig)] = Field(default_factory=dict)
    """For methods with several optimizers: settings by optimizer that differ from those above, as `{discriminator:
    {optimizer: sgd, lr: 2.0e-4}}`."""

    @property
    def batch_size(self) -> int:
        """Items in the global batch."""
        return self.n_pids * self.n_instances

    def optimizer_config(self, name: str) -> OptimizerConfig:
        """The settings of one optimizer of this stage."""
        own = self.model_dump(include=set(OptimizerConfig.model_fields))
        return OptimizerConfig.model_validate(own | self.optimizers.get(name, {}))

    @model_validator(mode="after")
    def _optimizers_are_valid(self) -> StageConfig:
        for name in self.optimizers:
            try:
                self.optimizer_config(name)
            except ValidationError as error:
                raise ValueError(first_error(error, f"optimizers.{name}.")) from error
        return self


class TrainingConfig(StageConfig):
    """The main stage, which is the last one of a method, and settings common to all stages."""

    precision: Literal["float32", "bf16", "float64"] = "bf16"
    """Precision of the networks; losses, weights and labels are float32 or float64. CPUs without bfloat16 instructions
    compute in float32. `float64` is for tests."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between checkpoints within an epoch; the start and the end of an epoch always have one."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Number of checkpoints kept, in addition to the exported models."""
    log_every: int = Field(default=20, ge=1)
    """Steps between `step` events in metrics.jsonl."""


class EvaluationConfig(Section):
    """Retrieval on the query and gallery splits."""

    every: int | None = Field(default=1, ge=0)
    """Epochs between evaluations; 0 = only after the last, null = never."""
    at_start: bool = False
    """Evaluate before the first epoch as well, unless evaluation is disabled."""
    overlap: bool = False
    """Evaluate the model of an epoch while the next epoch trains; the metrics are logged at the end of that epoch."""
    batch_size: int = Field(default=64, ge=1)
    """Images per forward pass in extraction. Batches are fixed: results do not depend on the number of extractors."""
    protocol: Literal["single_query", "sysu_mm01", "regdb", "mars", "camera_cycles"] = "single_query"
    """Evaluation protocol. `single_query`: each query image against all gallery images except those of the same
    identity and camera (Market-1501). `sysu_mm01`: infrared queries against ten galleries sampled from the visible
    images; metrics are means over these trials, and the CMC counts people. `regdb`: all visible images against all
    thermal ones, or the reverse. `mars`: single query between tracklets, whose features are pooled from the features of
    their frames; pid 0 marks distractors. `camera_cycles`: needs no identities; the share of walks between cameras that
    return (docs/labels.md), on the training images; it also selects the model `best`."""
    temporal_parts: int = Field(default=1, ge=1)
    """Protocol mars: consecutive parts of a tracklet whose mean features are concatenated. 1 is the mean of all frames
    (TP); SCR uses 3 (TPP)."""
    temporal_frames: int | None = Field(default=None, ge=1)
    """Protocol mars: frames sampled per tracklet, a multiple of `temporal_parts` (SCR: 15); null uses all frames."""
    temporal_sampling: Literal["even", "random"] = "even"
    """Protocol mars: frames are evenly spaced (E) or random (R)."""
    temporal_seed: int = Field(default=0, ge=0)
    """Protocol mars: seed of the random sampling."""
    search: Literal["all", "indoor"] = "all"
    """Protocol sysu_mm01: the gallery's cameras, 1, 2, 4, 5 or 1, 2."""
    shots: int = Field(default=1, ge=1)
    """Protocol sysu_mm01: images of each person by each camera in a gallery, 1 (single-shot) or 10 (multi-shot)."""
    trials: int = Field(default=10, ge=1)
    """Protocol sysu_mm01: number of sampled galleries."""
    permutations: str | None = None
    """Protocol sysu_mm01: the authors' `rand_perm_cam.mat`, which then fixes the galleries. Null: trial t
    samples with seed t, as in most public codes."""
    direction: Literal["v2t", "t2v"] = "v2t"
    """Protocol regdb: visible queries and a thermal gallery, or the reverse. A run is one of the dataset's ten splits
    (`data.trial`)."""
    ap: Literal["mean", "trapezoid"] = "mean"
    """Average precision: mean over hits, the usual form, or the original trapezoid form of Market-1501."""

    @model_validator(mode="after")
    def _parts_are_equal(self) -> EvaluationConfig:
        frames, parts = self.temporal_frames, self.temporal_parts
        if frames is not None and frames % parts:
            raise ValueError(f"evaluation.temporal_frames={frames} is not a multiple of temporal_parts={parts}")
        return self


class RuntimeConfig(Section):
    """Processes, devices and resources. These settings do not change results, except for float32 rounding."""

    backend: Literal["ray", "inline"] = "ray"
    """`ray`: Ray Train workers and an actor pool. `inline`: this process, or the ranks of `torchrun`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA if available."""
    n_workers: int = Field(default=1, ge=1)
    """Training workers, which share one global batch."""
    min_workers: int | None = Field(default=None, ge=1)
    """Ray only: continue with at least this many workers while nodes are missing, and with more when they return; null
    waits for all. The weights equal those of any other worker count."""
    n_extractors: int = Field(default=1, ge=1)
    """Actors that extract features for refreshes and evaluations."""
    n_labellers: int = Field(default=1, ge=1)
    """Actors that share the rows of a refresh. Their number changes speed and memory per actor, not the labels."""
    placement: Literal["auto", "separate", "colocated"] = "auto"
    """`separate`: extractors and labellers have their own CPUs and GPUs. `colocated`: they take turns with the trainers
    on the same ones. `auto`: with GPUs, separate if there are enough; without GPUs, separate if labels or evaluations
    are computed during training."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs reserved on a Ray cluster for each process with its own CPUs."""
    threads: int | None = Field(default=None, ge=1)
    """Threads per process. Null: the cores of the machine are divided among the processes that compute at the same
    time; on an existing Ray cluster, each process uses its reserved CPUs."""
    address: str | None = None
    """Ray address; null starts a local Ray, `auto` joins the running one."""
    max_failures: int = Field(default=3, ge=0)
    """Worker failures after which the run restarts from the last checkpoint."""
    timeout_seconds: int = Field(default=600, ge=1)
    """Time after which an unresponsive worker, or an extractor that completes nothing, is considered hung and
    restarted. Must exceed the slowest step and the longest checkpoint write."""


def check_runtime(stage: StageConfig, bn_group: int | None, runtime: RuntimeConfig) -> None:
    """Raise ValueError if some possible worker count of the run cannot share the batch."""
    fewest = runtime.min_workers or runtime.n_workers
    if fewest > runtime.n_workers:
        raise ValueError(f"runtime.min_workers={fewest} is more than runtime.n_workers={runtime.n_workers}")
    for n_workers in range(fewest, runtime.n_workers + 1):
        check_batch(stage, bn_group, n_workers)


def check_batch(stage: StageConfig, bn_group: int | None, n_workers: int) -> None:
    """Raise ValueError if the batch cannot be divided among the workers or into BN groups."""
    batch = stage.batch_size
    if batch % n_workers:
        raise ValueError(
            f"{n_workers} workers (runtime.n_workers, min_workers) do not divide the global batch of {batch} "
            f"(training.n_pids × training.n_instances)"
        )
    if bn_group is None:
        return
    local = batch // n_workers
    if batch % bn_group:
        raise ValueError(f"model.bn_group={bn_group} does not divide the global batch of {batch}")
    if local % bn_group and bn_group % local:
        raise ValueError(f"model.bn_group={bn_group} and the {local} images of one worker: one must divide the other")
