"""Cost and benefit of Ray: the training loop in Ray Train against `torchrun`, start-up, overlap, and extraction.

`python benchmarks/runtime.py` prints three tables. Overhead: the same run with both runtimes, in turn, medians of
seconds per step and of start-up. Overlap: the time that training waits for labels with `labels.staleness` 0 and 1, with
an extractor that sleeps, since on a machine with few cores a working one would take them from the trainer.
Extraction: images per second of 1, 2 and 4 actors.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TINY = (
    "data.height=64",
    "data.width=32",
    "model.backbone=resnet18",
    "model.weights=null",
    "model.bn_group=16",
    "data.synthetic.n_train_ids=16",
    "data.synthetic.n_test_ids=4",
    "data.synthetic.height=64",
    "data.synthetic.width=32",
    "labels.k1=8",
    "labels.k2=3",
    "labels.min_samples=2",
    "training.n_pids=4",
    "training.n_instances=4",
    "training.log_every=10",
    "training.checkpoint_every=100000",
    "evaluation.every=0",
    "evaluation.at_start=false",
    "runtime.threads=1",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs for the overhead (default 3)")
    parser.add_argument("--steps", type=int, default=60, help="steps of an epoch (default 60)")
    parser.add_argument("--workers", type=int, default=2, help="training workers (default 2)")
    parser.add_argument("--only", choices=["overhead", "overlap", "extraction"], help="one table of the three")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reid-") as folder:
        if options.only in (None, "overhead"):
            overhead(Path(folder), options.repeats, options.steps, options.workers)
        if options.only in (None, "overlap"):
            overlap(Path(folder), options.steps)
        if options.only in (None, "extraction"):
            extraction(Path(folder))


def overhead(folder: Path, repeats: int, steps: int, n_workers: int) -> None:
    """Seconds per step and until the first refresh, in turn with Ray and with torchrun."""
    found: dict[str, list[tuple[float, float]]] = {"torchrun": [], "ray": []}
    for repeat in range(repeats):
        for runtime in found:
            found[runtime].append(train(folder / f"{runtime}-{repeat}", runtime, steps, n_workers))
    print(f"\n{n_workers} workers, {steps} steps an epoch, medians of {repeats} runs in turn\n")
    print("| runtime | seconds per step | seconds from command to first step |\n|---|---|---|")
    for runtime, runs in found.items():
        step, start = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"| {runtime} | {step:.4f} | {start:.1f} |")
    ratios = [ray[0] / plain[0] for plain, ray in zip(found["torchrun"], found["ray"], strict=True)]
    by_pair = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"\nper step, Ray / torchrun: median {statistics.median(ratios):.3f} of {by_pair}", flush=True)


def train(output: Path, runtime: str, steps: int, n_workers: int) -> tuple[float, float]:
    """Seconds per step of the second epoch, and seconds until the first epoch, of a run in separate processes."""
    settings = (*TINY, f"output={output}", f"training.iterations={steps}", "training.epochs=2")
    settings += (f"runtime.n_workers={n_workers}", f"runtime.backend={'ray' if runtime == 'ray' else 'inline'}")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_workers}"]
    command = [sys.executable, *(launcher if runtime == "torchrun" and n_workers > 1 else []), "-m", "reid_ray"]
    started = time.time()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    subprocess.run([*command, "train", "demo", *settings], check=True, capture_output=True, env=environment)
    from reid_ray import load_run

    run = load_run(output / "demo")
    refreshed, trained = run.metrics("refresh")[0]["time"], run.metrics("epoch")[1]["train_seconds"]
    shutil.rmtree(output)  # half a gigabyte
    return trained / steps, refreshed - started


def overlap(folder: Path, steps: int) -> None:
    """Time that training waits for labels, fresh or one epoch old; the extractor sleeps instead of computing."""
    import ray
    import torch

    from reid_ray.config import load_config
    from reid_ray.data.readers import read_dataset
    from reid_ray.devices import prepare_process
    from reid_ray.runtime.actor_pool import Extractor, Labeller, Pool
    from reid_ray.runtime.pool_services import PoolServices
    from reid_ray.training.datasets import ImageCaches
    from reid_ray.training.distributed import DistributedContext
    from reid_ray.training.loop import Trainer
    from reid_ray.training.rundir import RunDirectory

    class SleepingExtractor(Extractor):
        """Random features, after a delay."""

        def extract(self, table: str, weights: Any, batches: list[range], copy: Any = None) -> Any:
            time.sleep(8)
            rows = [row for batch in batches for row in batch]
            people = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
            noise = torch.randn(len(rows), 64, generator=torch.Generator().manual_seed(rows[0]))
            features = people[torch.tensor(rows) * 16 // 256 % 16] + 0.2 * noise
            # Same dimension as the network, so that proxies fit.
            padded = torch.nn.functional.pad(features, (0, 512 - 64))
            return torch.nn.functional.normalize(padded, dim=1).numpy(), 8.0

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    print("\nA refresh whose extractor sleeps 8 s, one trainer\n")
    print("| staleness | training of an epoch, s | refresh, s | training stood still, s | hidden |")
    print("|---|---|---|---|---|")
    for staleness in (0, 1):
        settings = (*TINY, f"output={folder}", f"name=overlap-{staleness}", f"labels.staleness={staleness}")
        settings += (f"training.iterations={2 * steps}", "training.epochs=4", "runtime.n_workers=1")
        config = load_config("demo", [*settings])
        datasets = {"data": read_dataset(config.data)}
        directory = RunDirectory.of(config)
        directory.create(config, datasets)
        prepare_process(config.runtime)
        extractor = ray.remote(SleepingExtractor).options(num_cpus=1).remote(config, {"data": datasets["data"].images})
        pool = Pool((extractor,), (ray.remote(Labeller).options(num_cpus=1).remote(config),))
        context = DistributedContext()
        services = PoolServices(config, datasets, context, pool)
        caches = ImageCaches(datasets, config)
        Trainer(config, datasets, context, torch.device("cpu"), services, caches).run()
        pool.stop()
        from reid_ray import load_run

        run = load_run(directory.path)
        refreshes = run.metrics("refresh")[1:]
        training = statistics.median(event["train_seconds"] for event in run.metrics("epoch"))
        took = statistics.median(event["extract_seconds"] + event["label_seconds"] for event in refreshes)
        waited = statistics.median(event["wait_seconds"] for event in refreshes)
        print(
            f"| {staleness} | {training:.1f} | {took:.1f} | {waited:.1f} | {1 - min(waited / took, 1):.0%} |",
            flush=True,
        )
    ray.shutdown()


def extraction(folder: Path) -> None:
    """Images per second of pools of 1, 2 and 4 extractors with one thread each."""
    import ray

    from reid_ray.config import load_config
    from reid_ray.data.readers import read_dataset
    from reid_ray.models import build_embedder, to_numpy
    from reid_ray.runtime.actor_pool import Pool
    from reid_ray.runtime.resources import plan
    from reid_ray.training.rundir import RunDirectory
    from reid_ray.types import Weights

    print(f"\nResNet-18 at 64×32 on {os.cpu_count()} cores, one thread an actor\n")
    print("| extractors | images/s | against one |\n|---|---|---|")
    first = None
    for n_extractors in (1, 2, 4):
        settings = (*TINY, f"output={folder}", f"name=extract-{n_extractors}", "data.synthetic.n_train_ids=120")
        settings = (*settings, f"runtime.n_extractors={n_extractors}", "runtime.placement=separate")
        config = load_config("demo", [*settings])
        dataset = read_dataset(config.data)
        RunDirectory.of(config).create(config, {"data": dataset})
        ray.init(num_cpus=n_extractors + 1, include_dashboard=False, log_to_driver=False)
        pool = Pool.start(config, {"data": dataset.images}, plan(config, n_gpus=0, n_cores=None))
        state = to_numpy(build_embedder(config.model).state_dict())
        n_images = len(dataset.train)
        pool.features("data", n_images, 64, Weights("student", (0, 0), state)).wait()  # images are decoded once
        started = time.perf_counter()
        pool.features("data", n_images, 64, Weights("student", (0, 1), state)).wait()
        rate = n_images / (time.perf_counter() - started)
        first = first or rate
        print(f"| {n_extractors} | {rate:.0f} | {rate / first:.2f} |", flush=True)
        pool.stop()
        ray.shutdown()


if __name__ == "__main__":
    main()
