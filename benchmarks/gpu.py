"""GPU kit: one command without Ray, under ten minutes, that checks and measures a CUDA device.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --device cpu --quick      # the same code on a machine without a GPU

Sections, in this order; none starts after `--minutes`, so that a slow card also gives a report:

* the tests of the group `gpu`;
* the label refresh at the sizes of Market-1501, MSMT17 and beyond: exact neighbour search, graph and clusters. The
  limit is N²·D operations at the rate of the device's own bfloat16 matrix product, because each product is used for two
  rows. If faiss is installed, its exact search on the same device is measured as well;
* a step of every stage of every recipe (`steps.py`) in bfloat16, in float32, compiled, and with contiguous tensors.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from label_features import make_features
from steps import StepCost, as_json, matrix_rate, measure_recipe, published_recipes, table, timed

from reid_ray.errors import UserError
from reid_ray.labels import dbscan, jaccard_graph, nearest

SIZES = ((12_936, 2048), (32_621, 2048), (126_441, 2048), (1_000_000, 256))
"""Rows and dimensions: training splits of Market-1501 and MSMT17, all of MSMT17, and a large collection."""

K1, K2, EPS, MIN_SAMPLES = 30, 6, 0.55, 4

VARIANTS: tuple[Mapping[str, object], ...] = (
    {"precision": "bf16"},
    {"precision": "float32"},
    {"precision": "bf16", "compiled": True},
    {"precision": "bf16", "channels_last": False},
)

QUICK = ("data.height=64", "data.width=32", "model.backbone=resnet18_narrow")


def run_gpu_tests() -> dict[str, float]:
    """Numbers of passed, failed and skipped tests of the group `gpu`, and their seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "tests/gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    print(done.stdout[-2000:])
    counts = {name: int(n) for n, name in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    return {**counts, "seconds": time.perf_counter() - start}


def measure_refresh(n_rows: int, dim: int, device: torch.device, peak: float) -> dict[str, float | None]:
    """Seconds of each part of a refresh on generated features, and the lower bound for its search."""
    features = make_features(n_rows, dim)
    nearest(features[:1000], 20, device=device)  # compiles the kernels, and starts the device
    search = timed(lambda: nearest(features, K1, device=device), device)
    graphs = []
    graph = timed(lambda: graphs.append(jaccard_graph(features, k1=K1, k2=K2, max_distance=EPS, device=device)), device)
    clusters = timed(lambda: dbscan(graphs[0], eps=EPS, min_samples=MIN_SAMPLES), device)
    limit = n_rows**2 * dim / peak
    return {
        "rows": n_rows,
        "dim": dim,
        "search": search,
        "limit": limit,
        "search / limit": search / limit,
        "search and graph": graph,
        "clusters": clusters,
        "faiss": _faiss_seconds(features, device),
    }


def _faiss_seconds(features: np.ndarray, device: torch.device) -> float | None:
    try:
        import faiss
    except ImportError:
        return None
    index = faiss.IndexFlatIP(features.shape[1])
    if device.type == "cuda":
        if not hasattr(faiss, "StandardGpuResources"):
            return None
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(features)
    return timed(lambda: index.search(features, K1), device)


def refresh_table(rows: Sequence[Mapping[str, float | None]]) -> str:
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in rows:
        numbers = (row[name] for name in names)
        cells = ("" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in numbers)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure_steps(
    recipes: Sequence[str], overrides: Sequence[str], device: torch.device, peak: float, ends: float
) -> list[StepCost]:
    """Step costs by recipe and variant, until the time is over; stages that do not fit in memory are reported and
    skipped."""
    costs: list[StepCost] = []
    for variant in VARIANTS:
        for recipe in recipes:
            if time.monotonic() > ends:
                print("The time is over; the remaining steps are not measured.")
                return costs
            try:
                costs += measure_recipe(recipe, overrides, device, peak=peak, repeats=3, **variant)
            except (UserError, torch.OutOfMemoryError) as error:
                print(f"{recipe}, {variant}: {error}")
    return costs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--minutes", type=float, default=8, help="no section starts later (default 8)")
    parser.add_argument("--quick", action="store_true", help="small images, a narrow network, 2,000 rows, no tests")
    parser.add_argument("--recipes", nargs="+", help="default: all")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON report (default gpu.json)")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device; use --device cpu --quick for a dry run.")
    device, ends = torch.device(options.device), time.monotonic() + 60 * options.minutes
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    peak = matrix_rate(device)
    report: dict[str, object] = {"device": name, "torch": torch.__version__, "peak": peak}
    print(f"{name}, PyTorch {torch.__version__}: {peak / 1e12:,.2f} TFLOP/s matrix product\n")

    if not options.quick:
        report["tests"] = run_gpu_tests()
    refreshes = []
    for n_rows, dim in ((2000, 64),) if options.quick else SIZES:
        if time.monotonic() < ends:
            refreshes.append(measure_refresh(n_rows, dim, device, peak))
    report["refresh"] = refreshes
    print(refresh_table(refreshes) if refreshes else "The time is over; no refresh is measured.", "\n")
    costs = measure_steps(options.recipes or published_recipes(), QUICK if options.quick else (), device, peak, ends)
    report["steps"] = as_json(costs)
    print(table(costs))
    options.out.write_text(json.dumps(report, indent=1))
    print(f"\nReport: {options.out}")


if __name__ == "__main__":
    main()
