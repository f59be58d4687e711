"""A toy system that uses everything at once that a method may ask for, and that nothing outside this file knows.

Three stages: `identity` trains an encoder on tracklets of two modalities with Adam and SGD on one loss; `generate`
freezes it and alternates a generator and a discriminator; `refine` trains a head on cached features of the frozen
encoder, with labels from clusters and from an attribute, and a moving average of the head.
"""

import csv

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.io import write_png

from reid_ray.config import MethodConfig, register_method_config
from reid_ray.methods import FeatureCache, LabelSpec, Method, Stage, StreamSpec, Update, register_method
from reid_ray.methods.components import Classifiers
from reid_ray.methods.stage import optimizers
from reid_ray.models import GroupBatchNorm, make_teacher

DIM = 8
NOISE = 4


@register_method_config
class ToyConfig(MethodConfig):
    """Settings of the toy."""

    name: str = "toy"
    """The method."""
    weight_attribute: float = 0.5
    """Weight of the attribute loss."""


class Encoder(nn.Module):
    """Images [n, 3, H, W] → [n, DIM]."""

    dim = DIM

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, DIM, 3, stride=2), GroupBatchNorm(DIM), nn.ReLU(), nn.Conv2d(DIM, DIM, 3, stride=2)
        )

    def forward(self, images):
        return self.layers(images).mean((2, 3))

    def embed(self, images):
        return F.normalize(self(images))


class Head(nn.Module):
    """The encoder, and one linear map per modality."""

    dim = DIM
    columns = ("modality",)

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.maps = nn.ModuleList([nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)])

    def project(self, features, modality):
        both = torch.stack([layer(features) for layer in self.maps])
        return both[modality, torch.arange(len(features), device=features.device)]

    def embed(self, images, modality):
        return F.normalize(self.project(self.encoder(images), modality))


@register_method("toy")
class Toy(Method):
    def __init__(self, config, collectives):
        super().__init__(config, collectives)
        encoder = Encoder()
        self.head = Head(encoder)
        self.mean = make_teacher(self.head)
        self.generator = nn.Sequential(nn.Linear(DIM + NOISE, DIM), GroupBatchNorm(DIM), nn.ReLU(), nn.Linear(DIM, DIM))
        self.discriminator = nn.Linear(DIM, 1)
        self.identities = Classifiers([DIM])
        self.clusters = Classifiers([DIM])
        self.hat = nn.Linear(DIM, 2)

    @property
    def modules(self):
        names = ("head", "mean", "generator", "discriminator", "identities", "clusters", "hat")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def stages(cls, config):
        identity, generate = config.stage_config("identity"), config.stage_config("generate")
        truth = LabelSpec("ground_truth")
        tracklets = {
            name: StreamSpec({"strong": "strong"}, labels=truth, modality=name, frames=3)
            for name in ("visible", "infrared")
        }
        cache = FeatureCache("head.encoder", view="strong", copies=2)
        refined = StreamSpec(
            {"feature": "feature"},
            labels=LabelSpec("clusters", frozenset({"centroids"})),
            columns=("modality", "attributes"),
            cache=cache,
        )
        generators, refining = ("generator", "discriminator"), ("clusters", "hat")
        return (
            Stage(
                "identity",
                identity,
                tracklets,
                optimizers(identity, encoder=("head.encoder",), classifier=("identities",)),
                retriever="head.encoder",
                frozen=("head.maps", *generators, *refining),
            ),
            Stage(
                "generate",
                generate,
                {"train": StreamSpec({"image": "flip"}, data="data")},
                optimizers(generate, generator=("generator",), discriminator=("discriminator",)),
                retriever="head.encoder",
                frozen=("head", "identities", *refining),
                evaluated=False,
                renders=True,
                seed_offset=1,
            ),
            Stage(
                "refine",
                config.training,
                {"train": refined},
                optimizers(config.training, main=("head.maps", *refining)),
                retriever="mean",
                frozen=("head.encoder", "identities", *generators),
                init={"mean": "head"},
                seed_offset=2,
            ),
        )

    @classmethod
    def build(cls, config, name):
        return Head(Encoder())

    def on_labels(self, stage, labels):
        if stage == "identity":
            generator = torch.Generator().manual_seed(self.config.seed)
            n_classes = max(each.n_clusters for each in labels.values())
            self.identities.restart([torch.randn(n_classes, DIM, generator=generator)])
        if stage == "refine":
            self.clusters.restart([torch.tensor(labels["train"].centroids)])

    def updates(self, stage, batch):
        return {"identity": self.identity, "generate": self.generate, "refine": self.refine}[stage](batch)

    def identity(self, batch):
        """Adam for the encoder and SGD for the classifier, on one loss."""
        losses = {}
        for name in ("visible", "infrared"):
            frames = batch[name].views["strong"]
            features = self.head.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(1)
            (logits,) = self.identities([self.collectives.all_gather(features)])
            losses[name] = F.cross_entropy(logits, batch[name].labels)
        yield Update(("encoder", "classifier"), losses["visible"] + losses["infrared"], losses)

    def generate(self, batch):
        """The discriminator learns to tell codes of images from generated ones, then the generator to deceive it."""
        codes = self.head.encoder(batch["train"].views["image"])
        noise = batch.noise("code", (len(batch["train"].labels), NOISE), like=codes)
        given = torch.cat([codes, self.collectives.local_slice(noise)], dim=1)
        fake = self.generator(given)
        real_score, fake_score = (
            self.collectives.all_gather(self.discriminator(code)) for code in (codes, fake.detach())
        )
        loss = (real_score - 1).square().mean() + fake_score.square().mean()
        yield Update(("discriminator",), loss, {"adversarial": loss})
        score = self.collectives.all_gather(self.discriminator(fake))
        loss = (score - 1).square().mean() + self.collectives.all_gather(fake - codes).abs().mean()
        yield Update(("generator",), loss, {"adversarial": loss})

    def refine(self, batch):
        """Cached features, clusters, an attribute with unknown values, and a keyed mask."""
        inputs = batch["train"]
        modality = self.collectives.local_slice(inputs.columns["modality"])
        features = self.collectives.all_gather(self.head.project(inputs.views["feature"], modality))
        mask = torch.from_numpy(batch.rng("mask").random(features.shape) > 0.2).to(features)
        (logits,) = self.clusters([features * mask])
        terms = {
            "cluster": F.cross_entropy(logits, inputs.labels),
            "hat": F.cross_entropy(self.hat(features), inputs.columns["attributes"][:, 0], ignore_index=-1),
        }
        loss = terms["cluster"] + self.config.method.weight_attribute * terms["hat"]
        yield Update(("main",), loss, terms)

    def render(self, stage, batch):
        """Images of the batch, two in a row, and the size of what is generated as a grey."""
        images = batch["train"].views["image"].unflatten(0, (-1, 2))
        noise = batch.noise("code", (len(batch["train"].labels), NOISE), like=images)
        codes = self.generator(torch.cat([self.head.encoder(images.flatten(0, 1)), noise], dim=1))
        greys = codes.norm(dim=1).tanh()[:, None, None, None].expand(-1, 3, 4, 2)
        return {"images": images, "codes": greys[None]}

    def ema_pairs(self, stage):
        return [(self.mean, self.head)] if stage == "refine" else []


OVERRIDES = (
    "imports=[toy_system]",
    "method={name: toy}",
    "data.layout=csv",
    "data.height=32",
    "data.width=16",
    "model={bn_group: null, bn_buffers: mean, ema: 0.9}",
    "labels={k1: 4, k2: 2, eps: 0.8, min_samples: 2}",
    "training={epochs: 2, iterations: 3, n_pids: 4, n_instances: 2, warmup_epochs: 0, precision: float64}",
    "training.log_every=1",
    "training.sampler=random_instances",
    "stages.identity={epochs: 1, iterations: 3, sampler: shared_identities}",
    "stages.identity.optimizers.classifier={optimizer: sgd, lr: 0.01, nesterov: true}",
    "stages.generate={epochs: 1, iterations: null, sampler: shuffle, betas: [0.0, 0.999], lr: 1.0e-4}",
    "stages.generate.optimizers.discriminator={optimizer: amsgrad}",
    "evaluation={every: 1, at_start: false}",
    "runtime={backend: inline, n_workers: 1, threads: 1, device: cpu}",
)


def write_images(folder):
    """People in two modalities, a tracklet of four frames each, some with a hat; the list of them."""
    rng = np.random.default_rng(0)
    rows = []
    for pid in range(10):
        looks = rng.integers(40, 220, (2, 3, 1, 1))
        looks[1] = looks[1, 0]  # infrared is grey
        for camid, modality in enumerate(("visible", "infrared")):
            for frame in range(4):
                noisy = np.clip(looks[camid] + rng.integers(-40, 40, (3, 32, 16)), 0, 255)
                name = f"{pid}-{modality}-{frame}.png"
                write_png(torch.from_numpy(noisy.astype(np.uint8)), str(folder / name))
                split = "train" if pid < 7 else ("query" if camid and frame == 0 else "gallery")
                hat = -1 if pid == 0 else pid % 2
                rows.append((name, pid, camid, split, modality, f"{pid}-{camid}", hat))
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "pid", "camid", "split", "modality", "tracklet", "attr_hat"))
        writer.writerows(rows)
    return folder / "list.csv"
