"""An exported model in other packages: whether they load it, their features, and the accuracy that `reid` measures.

    python benchmarks/clients.py EXPORTED MARKET [--clients reid boxmot torchreid] [--bf16] [--evaluate]

EXPORTED comes from `reid-ray export RUN --format folder --format onnx --format torchreid` (the last for an OSNet),
MARKET is the folder of Market-1501. Cosines are those of 64 query images between the features of the client and of
`load_encoder`, with one thread in float32; for a file with torchreid's names, also those of `load_encoder` for this
file. With `--evaluate`, `reid` embeds query and gallery and evaluates them by its own code; `--bf16` computes this in
bfloat16, as the run does. Packages that are not installed are left out:

    pip install --pre --no-deps reid supervision pydeprecate opencv-python-headless gdown defusedxml boxmot torchreid
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reid_ray.data.arrays import resized_images
from reid_ray.data.views import normalize
from reid_ray.encoder import HubNetwork, load_encoder
from reid_ray.export.check import smallest_cosine
from reid_ray.types import FloatArray

N_IMAGES = 64

Clients = Iterator[tuple[str, str, Callable[[], FloatArray]]]
"""Name, file, and the function that loads the file and embeds the images."""


def reid_model(exported: Path) -> Any:
    """The network as a module of `reid`, as docs/export.md describes."""
    reid = importlib.import_module("reid")
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    size = config["input"]
    return reid.ReIDModel.from_pretrained(
        str(exported / "model.safetensors"),
        architecture=HubNetwork(**config),
        preprocessing=reid.ReIDPreprocessing(
            input_size=(size["height"], size["width"]),
            mean=tuple(size["mean"]),
            std=tuple(size["std"]),
            interpolation=size["interpolation"],
        ),
        device="cpu",
    )


def clients_of(package: str, exported: Path, names: Sequence[str], pixels: torch.Tensor) -> Clients:
    """The ways in which a package loads the files that were exported."""
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    backbone, size = config["backbone"], (config["input"]["height"], config["input"]["width"])
    named = f"{backbone}.pt"
    crops = list(pixels.permute(0, 2, 3, 1).flip(3).numpy())  # BGR
    if package == "reid":
        yield "reid, module", "model.safetensors", lambda: reid_model(exported).extract_embeddings_from_paths(names)
        if (exported / named).exists():
            reid = importlib.import_module("reid")
            preprocessing = reid.ReIDPreprocessing(input_size=size)

            def by_name() -> FloatArray:
                model = reid.ReIDModel.from_pretrained(
                    str(exported / named), architecture=backbone, preprocessing=preprocessing, device="cpu"
                )
                return np.asarray(model.extract_embeddings_from_paths(names))

            yield f"reid, {backbone}", named, by_name
    if package == "boxmot":
        runtime = importlib.import_module("boxmot.reid.core.runtime")
        # It would install its own version of onnxruntime into this environment.
        checker = importlib.import_module("boxmot.utils.checks").RequirementsChecker
        checker.check_packages = lambda *_, **__: None
        for file in ("model.onnx", named):
            if (exported / file).exists():
                yield "BoxMOT", file, lambda file=file: runtime.ReID(exported / file, device="cpu")(crops)
    if package == "torchreid" and (exported / named).exists():
        models = importlib.import_module("torchreid.reid.models")

        def built() -> FloatArray:
            network = models.build_model(backbone, num_classes=1, pretrained=False).eval()
            importlib.import_module("torchreid.reid.utils").load_pretrained_weights(network, str(exported / named))
            with torch.inference_mode():
                return np.asarray(network(normalize(pixels)))

        yield "torchreid", named, built


def compare(exported: Path, market: Path, packages: Sequence[str]) -> None:
    files = sorted((market / "query").glob("*.jpg"))
    names = [str(files[i]) for i in np.linspace(0, len(files) - 1, N_IMAGES).round().astype(int)]
    encoder = load_encoder(exported, precision="float32")
    size = encoder.description.input
    pixels = torch.stack(list(resized_images(names, size.height, size.width)))
    features = encoder.embed(pixels)
    print("| client | file | smallest cosine with the run | and with `load_encoder(file)` |\n|---|---|---|---|")
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            print(f"| {package} | | not installed ({error}) | |")
            continue
        for title, file, embedded in clients_of(package, exported, names, pixels):
            found = np.asarray(embedded(), dtype=np.float32)
            same = smallest_cosine(found, load_encoder(exported / file, precision="float32").embed(pixels))
            run = found if found.shape == features.shape else found[:, : features.shape[1]]
            print(f"| {title} | `{file}` | {smallest_cosine(run, features):.6f} | {same:.6f} |", flush=True)


def evaluate(exported: Path, market: Path, bf16: bool) -> None:
    """The accuracy by `reid`'s own code, in percent."""
    reid = importlib.import_module("reid")
    model, start = reid_model(exported), time.process_time()
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        metrics = model.evaluate(*reid.load_market1501(market), verbose=False).metrics
    print("\n" + ", ".join(f"{name} {value:.2f}" for name, value in metrics.items()))
    print(f"{time.process_time() - start:.0f} CPU seconds")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path)
    parser.add_argument("market", type=Path)
    parser.add_argument("--clients", nargs="+", choices=("reid", "boxmot", "torchreid"), metavar="CLIENT")
    parser.add_argument("--evaluate", action="store_true", help="also evaluate by reid's own code")
    parser.add_argument("--bf16", action="store_true", help="evaluate in bfloat16")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    compare(given.exported, given.market, given.clients or ("reid", "boxmot", "torchreid"))
    if given.evaluate:
        evaluate(given.exported, given.market, given.bf16)


if __name__ == "__main__":
    main()
