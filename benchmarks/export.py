"""An exported model on PyTorch and on onnxruntime: cosines, images per second, size on disk, and accuracy.

    python benchmarks/export.py EXPORTED FOLDER [--images N]
    python benchmarks/export.py EXPORTED DATASET --evaluate [--backends run onnx int8]

EXPORTED comes from `reid-ray export RUN --format folder --format onnx --int8`, FOLDER has images. Each backend embeds
the same decoded images with one thread; backends take turns. Rates are images per second of CPU time, which other jobs
on the machine disturb less than wall-clock time.

With `--evaluate`, DATASET has query and gallery images in a layout that `reid-ray data check` detects. Each backend
embeds them all, from the files, with one thread; the metrics are those of `reid-ray evaluate`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from reid_ray.config import DataConfig
from reid_ray.data.arrays import resized_images
from reid_ray.data.readers import detect_layout, read_dataset
from reid_ray.encoder import Encoder, load_encoder
from reid_ray.evaluation import evaluate_table

BATCH, TIMED_BATCHES, ROUNDS = 32, 4, 3

BACKENDS = {
    "run": ("PyTorch, precision of the run", "model.safetensors"),
    "float32": ("PyTorch, float32", "model.safetensors"),
    "onnx": ("ONNX, float32", "model.onnx"),
    "int8": ("ONNX, int8", "model-int8.onnx"),
}
"""Title and file of each backend."""


def load(place: Path, backend: str) -> Encoder:
    file = place / BACKENDS[backend][1]
    return load_encoder(file, precision="float32" if backend == "float32" else "run", batch_size=BATCH)


def images_per_second(encoder: Encoder, pixels: torch.Tensor) -> float:
    start = time.process_time()
    encoder.embed(pixels)
    return len(pixels) / (time.process_time() - start)


def compare(place: Path, folder: Path, n_images: int) -> None:
    encoders = {name: load(place, name) for name in BACKENDS}
    size = next(iter(encoders.values())).description.input
    names = sorted(folder.glob("*.jpg"))
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, n_images).round().astype(int)]
    pixels = torch.stack(list(resized_images(chosen, size.height, size.width)))
    features = {name: encoder.embed(pixels) for name, encoder in encoders.items()}
    timed = pixels[: BATCH * TIMED_BATCHES]
    rates = [[images_per_second(encoder, timed) for encoder in encoders.values()] for _ in range(ROUNDS)]
    print("| backend | smallest and mean cosine with PyTorch float32 | images/s of one core | MB |\n|---|---|---|---|")
    for name, each in zip(encoders, zip(*rates, strict=True), strict=True):
        cosines = (features[name].astype(np.float64) * features["float32"]).sum(axis=1)
        title, file = BACKENDS[name]
        size_mb = (place / file).stat().st_size / 1e6
        print(f"| {title} | {cosines.min():.6f}, {cosines.mean():.6f} | {median(each):.0f} | {size_mb:.0f} |")


def evaluate(place: Path, root: Path, backends: Sequence[str]) -> None:
    """Print a row per backend as soon as it is complete."""
    dataset = read_dataset(DataConfig(layout=detect_layout(root), root=str(root)))
    query, gallery = dataset.query, dataset.gallery
    print(f"{len(query):,} query and {len(gallery):,} gallery images of {dataset.table.name}\n")
    print("| backend | mAP | R1 | R5 | R10 | mINP | images/s of one core, from files |\n|---|---|---|---|---|---|---|")
    for name in backends:
        encoder = load(place, name)
        start = time.process_time()
        features = [encoder.embed(map(dataset.images.read, split.paths)) for split in (query, gallery)]
        rate = (len(query) + len(gallery)) / (time.process_time() - start)
        metrics = evaluate_table(*features, dataset.table).as_dict()
        shown = " | ".join(f"{metrics[key]:.2%}".rstrip("%") for key in ("mAP", "R1", "R5", "R10", "mINP"))
        print(f"| {BACKENDS[name][0]} | {shown} | {rate:.0f} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path)
    parser.add_argument("folder", type=Path, help="folder of images; with --evaluate, a dataset")
    parser.add_argument("--images", type=int, default=1000, help="images to embed, evenly spaced (default 1000)")
    parser.add_argument("--evaluate", action="store_true", help="embed query and gallery of a dataset and evaluate")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS), help="for --evaluate")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.evaluate:
        evaluate(given.exported, given.folder, given.backends)
    else:
        compare(given.exported, given.folder, given.images)


if __name__ == "__main__":
    main()
