"""Vehicles and animals: square images, and no word about persons in what a user sees."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from small_runs import TINY
from torchvision.io import write_jpeg

from reid_ray.cli import main
from reid_ray.run import load_run

PEOPLE = re.compile(r"\b(person|persons|people|pedestrians?|someone|somebody|nobody|who)\b", re.IGNORECASE)


def write_images(root, names, size):
    """Images of one colour for each identity, which the name begins with, and noise."""
    rng, colours = np.random.default_rng(len(names)), np.random.default_rng(0).integers(40, 215, (100, 3))
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        colour = colours[int(re.search(r"\d+", file.name)[0])][:, None, None]
        pixels = np.clip(colour + rng.normal(0, 12, (3, *size)), 0, 255).astype(np.uint8)
        write_jpeg(torch.from_numpy(pixels), str(file), quality=95)


@pytest.fixture
def vehicles(tmp_path):
    """A copy of VeRi-776 with ten vehicles, seen by three of its twenty cameras; wide images."""
    root = tmp_path / "VeRi"
    for split, vehicles, images in (("image_train", range(1, 7), 3), ("image_test", range(7, 11), 2)):
        names = [f"{split}/{v:04d}_c{c:03d}_0001{v:02d}{n:02d}_0.jpg" for v in vehicles for c in (1, 9, 20)
                 for n in range(images)]  # fmt: skip
        write_images(root, names, (48, 72))
    write_images(root, [f"image_query/{v:04d}_c009_0001{v:02d}00_0.jpg" for v in range(7, 11)], (48, 72))
    return root


def words_of(capsys):
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.slow
def test_square_vehicles_from_the_check_to_the_report(vehicles, tmp_path, monkeypatch, capsys):
    settings = [key for key in TINY if not key.startswith("data.synthetic")]
    settings += ["data.layout=veri776", f"data.root={vehicles}", "data.height=32", "data.width=32"]
    settings += [f"output={tmp_path / 'runs'}", "name=veri", "evaluation.every=1", "training.epochs=1"]
    settings += ["model.backbone=resnet18", "model.weights=null"]
    run = tmp_path / "runs" / "veri"
    for arguments in (
        ("data", "check", vehicles),
        ("data", "pack", vehicles, tmp_path / "packed"),
        ("train", "cluster-contrast", *settings),
        ("evaluate", run),
        ("rank", run, "--out", tmp_path / "ranked.png", "--queries", 2),
        ("report", run),
        ("status", run),
    ):
        monkeypatch.setattr(sys, "argv", ["reid-ray", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        text = words_of(capsys)
        assert not ended.value.code, text
        assert not PEOPLE.search(text), f"{arguments[0]}: {PEOPLE.search(text)}"
    opened = load_run(run)
    dataset = opened.dataset
    assert {split: len(dataset.table.split(split)) for split in ("train", "query", "gallery")} == {
        "train": 54, "query": 4, "gallery": 24
    }  # fmt: skip
    (metrics,) = opened.metrics("evaluate")
    assert 0 < metrics["mAP"] <= 1
    assert -1 <= opened.metrics("refresh")[0]["ari"] <= 1, "clustering is scored by ARI where identities are known"
    assert opened.embed(dataset.table.paths[0]).shape == opened.embed(dataset.table.paths[:1]).shape
    body = re.sub(r"base64,[^\"]*", "", (run / "report.html").read_text())
    assert not PEOPLE.search(body)
    assert not PEOPLE.search(json.dumps(opened.metrics()))
