"""Packed datasets and weights files, whole and damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from fuzz_cases.damage import DAMAGE, Damage, damaged
from fuzz_cases.kind import Outcome, expect
from fuzz_cases.lists import NAMES, with_images
from reid_ray.config import DataConfig
from reid_ray.data import Dataset, FileImages, ImageTable, read_dataset
from reid_ray.data.check import check as check_dataset
from reid_ray.data.pack import pack
from reid_ray.errors import UserError
from reid_ray.models import load_backbone_weights


@st.composite
def packed_datasets(draw: st.DrawFn) -> tuple[str, list[Damage]]:
    name = draw(st.sampled_from(("shard-00000.arrow", "table.parquet", "manifest.json")))
    return name, draw(st.lists(DAMAGE, max_size=3))


def check_packed(drawn: tuple[str, list[Damage]], folder: Path) -> Outcome:
    name, damages = drawn
    source, copy = folder / "packed", folder / "copy"
    if not source.exists():
        with_images(folder)
        table = ImageTable.from_columns(path=[str(folder / each) for each in NAMES], pid=range(6), name="fuzz")
        pack(Dataset(table, FileImages()), source)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    (copy / name).write_bytes(damaged((source / name).read_bytes(), damages))
    config = DataConfig(layout="packed", root=str(copy))
    try:
        dataset = read_dataset(config)
        images = [dataset.images.read(path) for path in dataset.table.paths]
        check_dataset(config, threads=1)
    except UserError:
        expect(bool(damages), "a good packed dataset was refused")
        return "refused"
    if name == "shard-00000.arrow":
        shades = [int(image[0, 0, 0]) for image in images]
        expect(set(shades) <= set(range(6)), f"pixels {shades} that are in no image")
    return "read"


class TinyTrunk(nn.Module):
    """A network with the names of a ResNet and a few weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)
        block = nn.Module()
        block.conv1 = nn.Conv2d(2, 2, 1, bias=False)
        self.layer1 = nn.Sequential(block)


@st.composite
def weights_files(draw: st.DrawFn) -> tuple[str, str, list[Damage]]:
    form = draw(st.sampled_from(("zip", "legacy", "safetensors")))
    return form, draw(st.sampled_from(("", "backbone.", "module."))), draw(st.lists(DAMAGE, max_size=3))


def check_weights(drawn: tuple[str, str, list[Damage]], folder: Path) -> Outcome:
    form, prefix, damages = drawn
    torch.manual_seed(0)
    module = TinyTrunk()
    state = {prefix + key: value.clone() for key, value in module.state_dict().items()}
    file = folder / "weights"
    if form == "safetensors":
        save_file(state, file)
    else:
        torch.save({"model": state, "epoch": 3}, file, _use_new_zipfile_serialization=form == "zip")
    file.write_bytes(damaged(file.read_bytes(), damages))
    try:
        load_backbone_weights(module, file)
    except UserError as error:
        expect(bool(damages), f"good weights were refused: {error}")
        expect("\x1b" not in str(error) and "weights_only" not in str(error), f"a message of PyTorch's: {error}")
        return "refused"
    return "read"
