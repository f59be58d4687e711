"""Time of two hundred cluster settings compared with one refresh of the labels, on the same features.

    python benchmarks/sweep.py features.npy

`reid-ray extract` writes the features and, next to them, the table of rows. Both measurements run in this process, in
turn, after a first run on a few rows; medians are compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from reid_ray.config import LabelsConfig
from reid_ray.labels.features import open_features
from reid_ray.labels.refresh import refresh
from reid_ray.labels.sweep import parse_grid, sweep
from reid_ray.types import Features

GRID = ["k1=10,20,30,40,50", "eps=.35:.8:.05", "min_samples=2,4,8,16"]
WARM_UP_ROWS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help=".npy, L2-normalised, with a .parquet next to it")
    parser.add_argument("--split", default="train", help="rows to take")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = pq.read_table(given.features.with_suffix(".parquet"))
    chosen = np.array(rows["split"].to_pylist()) == given.split
    features = np.asarray(open_features(given.features)[chosen], dtype=np.float32)
    camids, pids = (rows[name].to_numpy()[chosen] for name in ("camid", "pid"))
    settings = parse_grid(GRID)

    def refreshed(n_rows: int) -> Any:
        own = Features(features[:n_rows], 0)
        return refresh(own, LabelsConfig(), camids[:n_rows], version=0, true_pids=pids[:n_rows], device="cpu")

    def swept(n_rows: int) -> Any:
        return sweep(features[:n_rows], settings, camids[:n_rows], pids=pids[:n_rows], device="cpu")

    seconds: dict[str, list[float]] = {"refresh": [], "sweep": []}
    for function in (refreshed, swept):
        function(WARM_UP_ROWS)
    for _ in range(given.repeats):
        seconds["refresh"].append(timed(refreshed, len(features)))
        seconds["sweep"].append(timed(swept, len(features)))
        print({name: f"{taken[-1]:.2f} s" for name, taken in seconds.items()}, flush=True)
    one, many = (statistics.median(seconds[name]) for name in ("refresh", "sweep"))
    ratios = [b / a for a, b in zip(seconds["refresh"], seconds["sweep"], strict=True)]
    print(f"{len(features):,} × {features.shape[1]}: one refresh {one:.2f} s, {len(settings)} settings {many:.2f} s")
    print(f"ratio {many / one:.2f}, by pair {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


def timed(function: Callable[[int], Any], n_rows: int) -> float:
    started = time.perf_counter()
    function(n_rows)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
