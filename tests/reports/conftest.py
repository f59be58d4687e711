"""Events of a run, a small dataset of coloured crops, and a browser."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable


@dataclass(frozen=True)
class ColouredCrops:
    """`path` is the pid; crops come in two sizes."""

    def read(self, path: str) -> torch.Tensor:
        pid = int(path)
        height = 40 if pid % 2 else 52
        colour = torch.tensor([40 * (pid % 6), 90, 255 - 40 * (pid % 6)], dtype=torch.uint8)
        return colour[:, None, None].expand(3, height, 20)


@pytest.fixture
def crops() -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Nine queries, thirty gallery images, and unit features [9, 8] and [30, 8]."""
    rng = np.random.default_rng(0)
    pids = np.concatenate([np.arange(9) % 6, np.arange(30) % 6])
    camids = np.concatenate([np.zeros(9, int), rng.integers(0, 3, 30)])
    table = ImageTable.from_columns(
        path=[str(pid) for pid in pids],
        pid=pids,
        camid=camids,
        split=["query"] * 9 + ["gallery"] * 30,
        name="crops & co",
    )
    features = rng.standard_normal((6, 8))[pids] + rng.standard_normal((39, 8))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    return Dataset(table, ColouredCrops()), features[:9], features[9:]


def epochs_of(stage: str, n_epochs: int, steps_before: int = 0, *, evaluated: bool = True) -> list[dict]:
    """The events of a stage after its start: five steps per epoch."""
    log: list[dict] = []
    for epoch in range(n_epochs):
        done = steps_before + 5 * epoch
        quality = {"ari": 0.2 + 0.1 * epoch, "nmi": 0.6, "pairwise_f1": 0.4}
        seconds = {"extract_seconds": 3.0, "label_seconds": 1.0}
        clusters = {"n_clusters": 20 - epoch, "n_outliers": 5, "outlier_share": 0.05}
        log.append({"event": "refresh", "epoch": epoch, "global_step": done, **clusters, **quality, **seconds})
        for step in range(5):
            loss = 3.0 / (1 + 5 * epoch + step)
            terms = {"hard": loss / 2, "soft": loss / 200}
            place = {"epoch": epoch, "step": step + 1, "n_steps": 5, "global_step": done + step + 1}
            log.append({"event": "step", **place, "lr": 1e-4, "loss": loss, "terms": terms})
        done += 5
        log.append(
            {"event": "epoch", "epoch": epoch, "global_step": done, "train_seconds": 9.0, "images_per_second": 50.0}
        )
        if evaluated:
            rates = {"mAP": 0.3 - 0.05 * (epoch - 1) ** 2, "R1": 0.5, "R5": 0.7, "R10": 0.8, "mINP": 0.1}
            log.append({"event": "evaluate", "epoch": epoch + 1, "global_step": done, **rates, "evaluate_seconds": 4.0})
    return [{**event, "stage": stage} for event in log]


def start_of(stage: str, global_step: int = 0) -> dict:
    place = {"stage": stage, "epoch": 0, "step": 0, "global_step": global_step}
    return {"event": "start", "time": 1.0, **place, "device": "cpu", "precision": "float32", "startup_seconds": 3.25}


@pytest.fixture
def events() -> list[dict]:
    """Three epochs of a run that is still training."""
    before = {"event": "evaluate", "stage": "main", "epoch": 0, "global_step": 0}
    return [
        start_of("main"),
        {**before, "mAP": 0.1, "R1": 0.2, "evaluate_seconds": 4.0},
        *epochs_of("main", 3),
    ]


@pytest.fixture
def staged_events() -> list[dict]:
    """Two epochs of a stage on a source, which is not evaluated, and three of the main one, which is."""
    start = {"event": "evaluate", "stage": "main", "epoch": 0, "global_step": 10, "mAP": 0.1, "R1": 0.2}
    return [
        start_of("source"),
        *epochs_of("source", 2, evaluated=False),
        start_of("main", 10),
        start,
        *epochs_of("main", 3, 10),
    ]


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs a browser: {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()
