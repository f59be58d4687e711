"""Drift between runs with 1, 2 and 4 workers: the weights of the same small ICE run, in float64 and in float32.

Run it with `python benchmarks/workers.py`. In float64 the differences are rounding errors amplified by training, and
should stay below 1e-6; in float32 the same amplification starts from errors 10^9 times as large.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

WORKERS = (1, 2, 4)
PRECISIONS = ("float64", "float32")

SETTINGS = (
    "runtime.backend=inline",
    "data.height=32",
    "data.width=16",
    "data.synthetic.n_train_ids=16",
    "data.synthetic.n_test_ids=8",
    "data.synthetic.height=64",
    "data.synthetic.width=32",
    "labels.k1=8",
    "labels.k2=3",
    "labels.min_samples=2",
    "training.epochs=2",
    "training.iterations=10",
    "training.n_pids=4",
    "model.bn_group=4",
    "evaluation.at_start=false",
)


def train(folder: Path, precision: str, n_workers: int) -> tuple[dict[str, torch.Tensor], float]:
    """The teacher's weights after a run, and its mAP."""
    name = f"{precision}-{n_workers}"
    overrides = [*SETTINGS, f"name={name}", f"output={folder}", f"runtime.n_workers={n_workers}"]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_workers}"] if n_workers > 1 else []
    subprocess.run(
        [sys.executable, *launcher, "-m", "reid_ray", "train", "demo", *overrides, f"training.precision={precision}"],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    from reid_ray import load_run

    run = load_run(folder / name)
    state = torch.load(run.directory.model_file("last"), weights_only=True)["model"]
    return {key: value.double() for key, value in state.items()}, run.metrics("evaluate")[-1]["mAP"]


def drift(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of a tensor."""
    return max(float((first[key] - second[key]).norm() / first[key].norm().clamp_min(1e-12)) for key in first)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("precision  workers  largest relative difference to one worker  mAP")
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            reference: dict[str, torch.Tensor] | None = None
            for n_workers in WORKERS:
                weights, accuracy = train(Path(folder), precision, n_workers)
                reference = reference or weights
                print(f"{precision:9}  {n_workers:7}  {drift(reference, weights):41.1e}  {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
