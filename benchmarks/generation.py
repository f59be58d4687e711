"""Measure whether GCL's generation improves and joint training beats the warm-up, on images with known identities.

    python benchmarks/generation.py name=gcl data.layout=synthetic model.weights=runs/warm/checkpoints/model-last.pt …

Arguments are overrides of the recipe `gcl`, which starts from the model of another run. One novel view is generated for
each training image and embedded by that warm-up model, which no stage changes. Measured before the stage `generate`,
after it, and after the stage `joint`:

* the Fréchet distance between the generated views of every second image and the other half of the real images. In the
  row `real`, the real images of the first half replace the generated views, which gives a lower bound;
* R1 and mAP of generated views as queries among all real images, with the usual camera rule: a rotated person should be
  nearer to their own real other views than to other people. In the row `real`, the queries are the images themselves;
* DSSIM in CIE-Lab between images of a person (`identity_diversity`), and the mean absolute difference of x'_ori from x.

The log of the run has the mAP of the retriever; at the start of the stage `joint` it is that of the warm-up.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reid_ray.api import prepare, train
from reid_ray.config import Config, load_config
from reid_ray.data.views import IMAGENET_MEAN, IMAGENET_STD
from reid_ray.errors import UserError
from reid_ray.evaluation import frechet_distance, identity_diversity, rank_metrics
from reid_ray.labels.refresh import ground_truth_labels
from reid_ray.methods import build_method, stages_of
from reid_ray.methods.gcl import GCL
from reid_ray.run import load_run
from reid_ray.training.datasets import ImageCaches, read_datasets
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.metrics import Event
from reid_ray.training.streams import StageData

FLOAT32 = torch.float32, torch.device("cpu")


class StageEndError(Exception):
    """Raised when the stage `joint` begins."""


def batches(config: Config) -> Iterator[dict[str, Any]]:
    """One pass over the training images: views, rows; the novel angles are the same at each call."""
    dtype, device = FLOAT32
    (stage,) = (stage for stage in stages_of(config) if stage.name == "generate")
    caches = ImageCaches(read_datasets(config), config)
    data = StageData(stage, config, caches, {}, DistributedContext(), device, dtype)
    labels = {"train": ground_truth_labels(caches.table("data").without_pids().pids)}
    for batch in data.batches(data.plan(labels, 0), labels, 0, 0):
        yield {"rows": batch["train"].rows, **batch["train"].views}


@torch.no_grad()
def measure(method: GCL, warmup: nn.Module, config: Config) -> dict[str, dict[str, float]]:
    """The metrics of generated views and of real images."""
    assert method.generator is not None
    for module in (*method.modules.values(), warmup):
        module.eval()
    parts: dict[str, list[Tensor]] = {name: [] for name in ("rows", "real", "generated", "real_f", "generated_f", "l1")}
    embed: Any = warmup.embed
    for batch in batches(config):
        images = batch["image"]
        code = method.identity(images).code
        turned = method.generator(batch["novel"], code).clamp(-2.5, 2.8)
        own = method.generator(batch["structure"], code)
        found = (batch["rows"], bytes_of(images), bytes_of(turned), embed(images), embed(turned), (own - images).abs())
        for kept, value in zip(parts.values(), found, strict=True):
            kept.append(value)
    rows, real, generated, real_f, generated_f, difference = (torch.cat(part) for part in parts.values())
    table = read_datasets(config)["data"].train.take(rows.numpy())
    first, second = np.arange(0, len(rows), 2), np.arange(1, len(rows), 2)
    ids = table.pids, table.pids, table.camids, table.camids
    result = {}
    for name, images, features in (("real", real, real_f), ("generated", generated, generated_f)):
        ranked = rank_metrics(features.numpy(), real_f.numpy(), *ids)
        result[name] = {
            "frechet": frechet_distance(features[first], real_f[second]),
            "R1": ranked.as_dict()["R1"],
            "mAP": ranked.mAP,
            "dssim_lab": identity_diversity(images, table.pids),
        }
    result["generated"]["l1"] = float(difference.mean())
    return result


def bytes_of(images: Tensor) -> Tensor:
    """Normalised images as uint8."""
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    return (255 * (images * std + mean).clamp(0, 1)).round().to(torch.uint8)


def main(overrides: list[str]) -> None:
    def listen(event: Event) -> None:
        if event["event"] == "start" and event["stage"] == "joint" and not event["epoch"]:
            raise StageEndError

    config, _ = prepare(load_config("gcl", ["evaluation.at_start=true", *overrides]))
    torch.manual_seed(config.seed)
    fresh = build_method(config, DistributedContext())
    assert isinstance(fresh, GCL)
    warmup = GCL.build(config, "identity")
    report("before generate", measure(fresh, warmup, config))
    try:
        run = train(config, listener=listen)
    except StageEndError:
        run = load_run(f"{config.output}/{config.name}")
        report("after generate", measure(run.load_method(), warmup, config))  # type: ignore[arg-type]
        run = train(config)
    report("after joint", measure(run.load_method(), warmup, config))  # type: ignore[arg-type]
    for event in run.metrics("evaluate"):
        print(json.dumps({key: event[key] for key in ("stage", "epoch", "mAP", "R1")}), flush=True)


def report(when: str, numbers: dict[str, dict[str, float]]) -> None:
    for what, values in numbers.items():
        print(json.dumps({"when": when, "what": what, **{key: round(value, 4) for key, value in values.items()}}))
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="of the recipe gcl; model.weights is needed")
    try:
        main(parser.parse_args().overrides)
    except UserError as error:
        sys.exit(f"error: {error}")
