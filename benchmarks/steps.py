"""Cost of a training step, for each stage of any recipe: seconds, images per second, memory, share of the matrix rate.

    python benchmarks/steps.py                                    # every recipe, one step shape per stage
    python benchmarks/steps.py ice is-gan --set data.height=128 data.width=64
    python benchmarks/steps.py ice --precision float32 bf16 --compile --out steps.json

Inputs are random and already decoded: the loader is not measured. Weights are random. The device's rate is that of its
matrix product in the same process, in bfloat16 where the device has it; `of peak` compares it with the operations of
all forward and backward passes, as counted by PyTorch. On a GPU the memory is the peak that PyTorch allocated, networks
and optimizer included; on a CPU it is the growth of the process's peak and stays empty once a larger step has run.
`epoch h` is the published schedule: steps × epochs of the stage at this speed, in hours.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import reid_ray
from reid_ray.api import prepare
from reid_ray.config import Config, load_config
from reid_ray.data.views import PixelBatch
from reid_ray.methods import Batch, Inputs, Method, Stage, build_method, stages_of
from reid_ray.models.precision import computes_in_bf16
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.modules import initialise, prepare_batch_norms, set_modes
from reid_ray.training.optimizers import make_optimizers, set_rates
from reid_ray.training.steps import train_step
from reid_ray.types import Labels

RECIPES = Path(reid_ray.__file__).parent / "recipes"
PEOPLE = "n_train_ids: 751, n_test_ids: 1, images_per_id: 12"
WORLDS = {
    "dg-vae": ", spectrum: near_infrared",
    "dg-vae-regdb": ", n_cameras: 2, spectrum: thermal",
    "scr-video": ", tracklets_per_id: 4",
}
"""Tables with as many identities as Market-1501's training split. No image is rendered."""

N_CAMERAS = 2
KEY = (0, 0, 0)
EPOCH_LATE_ENOUGH = 10_000
"""An epoch in which all terms that a method adds later are active."""


@dataclass(frozen=True)
class StepCost:
    """One line of the table.

    Attributes:
        images: images per step, over all streams; frames of tracklets count.
        seconds: median time of a step.
        first_seconds: time of the first step, which compiles and selects kernels.
        memory: bytes; None if unknown.
        flops: operations of forward and backward passes; None if they are not counted.
        of_peak: flops / seconds / the rate of the device's matrix product.
        schedule_hours: the stage's published steps at this speed; None for a stage of one pass over the images.
    """

    recipe: str
    stage: str
    variant: str
    images: int
    seconds: float
    first_seconds: float
    memory: int | None
    flops: int | None
    of_peak: float | None
    schedule_hours: float | None


def matrix_rate(device: torch.device, size: int | None = None) -> float:
    """Operations per second of the device's matrix product, the best of several: in bfloat16, or float32 without it."""
    size = size or (8192 if device.type == "cuda" else 2048)
    dtype = torch.bfloat16 if computes_in_bf16(device) else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    seconds = [timed(lambda: a @ a, device) for _ in range(8)]
    return 2 * size**3 / min(seconds[2:])


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, including the device's work."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def measure_recipe(
    recipe: str,
    overrides: Sequence[str],
    device: torch.device,
    *,
    precision: str,
    compiled: bool = False,
    channels_last: bool = True,
    repeats: int = 5,
    peak: float | None = None,
) -> list[StepCost]:
    """Cost of a step of each stage of a recipe; `overrides` as on the command line."""
    world = [f"data.synthetic={{{PEOPLE}{WORLDS.get(recipe, '')}}}", f"source.synthetic={{{PEOPLE}}}"]
    layouts = ["data.layout=synthetic", "source.layout=synthetic"]
    own = [text for text in (*layouts, *world) if text.startswith("data") or "uda" in recipe]
    settings = ["model.weights=null", f"training.precision={precision}", *own, *overrides]
    config, _ = prepare(load_config(recipe, settings))
    torch.manual_seed(config.seed)
    method = build_method(config, DistributedContext())
    for module in method.modules.values():
        module.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        if compiled:
            module.compile()
    variant = precision + (" + compile" if compiled else "") + ("" if channels_last else ", contiguous")
    return [
        replace(cost, recipe=recipe, variant=variant)
        for stage in stages_of(config)
        for cost in [measure_stage(method, stage, config, device, repeats=repeats, peak=peak)]
    ]


def measure_stage(
    method: Method, stage: Stage, config: Config, device: torch.device, *, repeats: int, peak: float | None
) -> StepCost:
    """Cost of a step of one stage, on random inputs of the configured sizes."""
    initialise(method.modules, stage)
    frozen = set_modes(method.modules, stage)
    first = stage.streams[stage.primary]
    prepare_batch_norms(method.modules, config.model.bn_group, stage.config.batch_size * first.frames)
    dim = method.network(config, stage.retriever).dim
    inputs = {name: random_inputs(stage, name, config, dim, device) for name in stage.streams}
    method.on_labels(stage.name, {name: random_labels(stage, name, dim) for name in stage.streams})
    for module in method.modules.values():
        module.to(device)  # memories and classifiers created from the labels
    optimizers = make_optimizers(method.modules, stage, {})
    set_rates(optimizers, stage, 0)
    batch = Batch(inputs, KEY)

    def step() -> None:
        train_step(
            method,
            stage,
            batch,
            optimizers,
            DistributedContext(),
            step=EPOCH_LATE_ENOUGH,
            before_backward=lambda update: None,
        )

    before = _reset_memory(device)
    first_seconds = timed(step, device)
    seconds = float(np.median([timed(step, device) for _ in range(repeats)]))
    memory = _peak_memory(device, before)
    flops = _count_operations(step)
    for parameter in frozen:
        parameter.requires_grad_(True)  # the next stage may train it
    n_images = sum(spec.frames * stage.config.batch_size for spec in stage.streams.values())
    steps = stage.config.iterations
    return StepCost(
        recipe="",
        stage=stage.name,
        variant="",
        images=n_images,
        seconds=seconds,
        first_seconds=first_seconds,
        memory=memory,
        flops=flops,
        of_peak=flops / seconds / peak if peak and flops else None,
        schedule_hours=None if steps is None else steps * stage.config.epochs * seconds / 3600,
    )


def random_inputs(stage: Stage, stream: str, config: Config, dim: int, device: torch.device) -> Inputs:
    """A stream of one batch: K images for each of P identities, alternating cameras."""
    spec, n = stage.streams[stream], stage.config.batch_size
    dtype = torch.float64 if config.training.precision == "float64" else torch.float32
    size = (config.data.height, config.data.width)

    def view(name: str) -> Tensor:
        if name == "feature":
            return torch.randn(n, dim, device=device, dtype=dtype)
        frames = (spec.frames,) if spec.frames > 1 else ()
        channels = 1 if name.startswith("projection@") else 3
        pixels = torch.randint(256, (n, *frames, channels, *size), dtype=torch.uint8)
        return PixelBatch(pixels, None).to(device, dtype)

    numbers = torch.arange(n, device=device)
    per_identity = max(1, stage.config.n_instances)
    columns: dict[str, Tensor] = {"camid": numbers % N_CAMERAS}
    for name in spec.columns:
        columns.setdefault(name, torch.zeros_like(numbers))
    if "attributes" in spec.columns:
        columns["attributes"] = torch.randint(2, (n, _n_attributes(config)), device=device)
    return Inputs({key: view(name) for key, name in spec.views.items()}, numbers // per_identity, numbers, columns)


def random_labels(stage: Stage, stream: str, dim: int) -> Labels:
    """Labels of a refresh for the images of `random_inputs`."""
    n, rng = stage.config.batch_size, np.random.default_rng(0)
    labels = np.arange(n) // max(1, stage.config.n_instances)
    n_clusters = int(labels.max()) + 1
    rows = rng.normal(size=(n_clusters * N_CAMERAS + n, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    proxies = np.tile(np.arange(n_clusters), N_CAMERAS), np.repeat(np.arange(N_CAMERAS), n_clusters)
    features = rows[-n:] if "features" in stage.streams[stream].labels.needs else None
    centroids = rows[: n_clusters * N_CAMERAS]
    return Labels(0, labels, centroids[:n_clusters], centroids, *proxies, features=features)


def table(costs: Sequence[StepCost]) -> str:
    """The costs as a Markdown table."""
    lines = [
        "| recipe | stage | variant | images | s/step | first s | images/s | GiB | GFLOP | of peak | schedule h |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        fields = [
            cost.recipe,
            cost.stage,
            cost.variant,
            str(cost.images),
            f"{cost.seconds:.3f}",
            f"{cost.first_seconds:.1f}",
            f"{cost.images / cost.seconds:.0f}",
            "" if cost.memory is None else f"{cost.memory / 2**30:.2f}",
            "" if cost.flops is None else f"{cost.flops / 1e9:.0f}",
            "" if cost.of_peak is None else f"{cost.of_peak:.0%}",
            "" if cost.schedule_hours is None else f"{cost.schedule_hours:.1f}",
        ]
        lines.append(f"| {' | '.join(fields)} |")
    return "\n".join(lines)


def published_recipes() -> list[str]:
    """Recipes with published settings, one per system and variant."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if not path.stem.endswith("demo"))


def as_json(costs: Sequence[StepCost]) -> list[Mapping[str, object]]:
    return [asdict(cost) for cost in costs]


def _n_attributes(config: Config) -> int:
    return len(getattr(config.method, "attribute_values", None) or [0])


def _count_operations(step: Callable[[], None]) -> int | None:
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            step()
    except RuntimeError:  # its hooks do not allow a gradient inside a loss, such as GCL's gradient penalty
        return None
    return counter.get_total_flops()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_memory(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peak_memory(device: torch.device, before: int) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before or None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of every recipe")
    parser.add_argument("--precision", nargs="+", default=["bf16"], choices=["bf16", "float32", "float64"])
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    peak = matrix_rate(device)
    print(f"{device}: {peak / 1e9:,.0f} GFLOP/s matrix product\n")
    costs: list[StepCost] = []
    for recipe in arguments.recipes or published_recipes():
        for precision in arguments.precision:
            for compiled in (False, True) if arguments.compile else (False,):
                costs += measure_recipe(
                    recipe,
                    arguments.set,
                    device,
                    precision=precision,
                    compiled=compiled,
                    repeats=arguments.repeats,
                    peak=peak,
                )
    print(table(costs))
    if arguments.out:
        arguments.out.write_text(json.dumps({"peak": peak, "steps": as_json(costs)}, indent=1))


if __name__ == "__main__":
    main()
