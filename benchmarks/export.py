"""An exported model on PyTorch and on onnxruntime: cosines, images per second, size on disk.

    python benchmarks/export.py EXPORTED FOLDER [--images N]

EXPORTED comes from `reid-ray export RUN --format folder --format onnx --int8`, FOLDER has images. Each backend embeds
the same decoded images with one thread; backends take turns. Rates are images per second of CPU time, which other jobs
on the machine disturb less than wall-clock time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from reid_ray.data.arrays import resized_images
from reid_ray.encoder import Encoder, load_encoder

BATCH, TIMED_BATCHES, ROUNDS = 32, 4, 3


def images_per_second(encoder: Encoder, pixels: torch.Tensor) -> float:
    start = time.process_time()
    encoder.embed(pixels)
    return len(pixels) / (time.process_time() - start)


def compare(place: Path, folder: Path, n_images: int) -> None:
    torch.set_num_threads(1)
    encoders = {
        "PyTorch, precision of the run": load_encoder(place, batch_size=BATCH),
        "PyTorch, float32": load_encoder(place, precision="float32", batch_size=BATCH),
        "ONNX, float32": load_encoder(place / "model.onnx", batch_size=BATCH),
        "ONNX, int8": load_encoder(place / "model-int8.onnx", batch_size=BATCH),
    }
    files = dict(
        zip(encoders, ("model.safetensors", "model.safetensors", "model.onnx", "model-int8.onnx"), strict=True)
    )
    size = next(iter(encoders.values())).description.input
    names = sorted(folder.glob("*.jpg"))
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, n_images).round().astype(int)]
    pixels = torch.stack(list(resized_images(chosen, size.height, size.width)))
    features = {name: encoder.embed(pixels) for name, encoder in encoders.items()}
    timed = pixels[: BATCH * TIMED_BATCHES]
    rates = [[images_per_second(encoder, timed) for encoder in encoders.values()] for _ in range(ROUNDS)]
    print("| backend | smallest and mean cosine with PyTorch float32 | images/s of one core | MB |\n|---|---|---|---|")
    for name, each in zip(encoders, zip(*rates, strict=True), strict=True):
        cosines = (features[name].astype(np.float64) * features["PyTorch, float32"]).sum(axis=1)
        size_mb = (place / files[name]).stat().st_size / 1e6
        print(f"| {name} | {cosines.min():.6f}, {cosines.mean():.6f} | {median(each):.0f} | {size_mb:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1000, help="images to embed, evenly spaced (default 1000)")
    given = parser.parse_args()
    compare(given.exported, given.folder, given.images)


if __name__ == "__main__":
    main()
