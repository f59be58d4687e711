"""Cases of `fuzz.py`: strategies for inputs, and checks of the results.

Each kind is a strategy and a check. The check reads one input and returns "read" or "refused" (a `UserError`); it
raises `WrongValueError` if a result differs from that of a slow, simple oracle, and does not catch other exceptions.
"""

from __future__ import annotations

import io
import math
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from PIL import Image, ImageOps
from safetensors.torch import save_file
from sklearn.cluster import DBSCAN
from torch import nn

from reid_ray.config import DataConfig, dump_config, load_config, recipe_names
from reid_ray.config.loading import known_keys
from reid_ray.data import Dataset, FileImages, ImageTable, read_dataset
from reid_ray.data.arrays import to_pixels
from reid_ray.data.check import check as check_dataset
from reid_ray.data.decoding import decode_image
from reid_ray.data.headers import BrokenImage
from reid_ray.data.pack import pack
from reid_ray.errors import UserError
from reid_ray.evaluation.ranking import score_queries
from reid_ray.labels import dbscan, jaccard_graph
from reid_ray.models import load_backbone_weights

Outcome = Literal["read", "refused"]


class WrongValueError(AssertionError):
    """A result that differs from the oracle's."""


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        strategy: draws inputs.
        check: reads one in a scratch folder.
    """

    strategy: st.SearchStrategy[Any]
    check: Callable[[Any, Path], Outcome]


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise WrongValueError(what)


# Damage

Damage = tuple[Any, ...]
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PLACE = st.integers(0, 10**6)
"""Positions are millionths of the length, so that examples shrink for any file."""

DAMAGE: st.SearchStrategy[Damage] = st.one_of(
    st.tuples(st.just("cut"), PLACE),
    st.tuples(st.just("change"), PLACE, st.integers(0, 255)),
    st.tuples(st.just("insert"), PLACE, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("drop"), PLACE, st.integers(1, 64)),
    st.tuples(
        st.just("header"), st.integers(0, 63), st.sampled_from((1, 2, 4)), st.sampled_from(EXTREMES), st.booleans()
    ),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 200)),
)


def damaged(data: bytes, damages: list[Damage]) -> bytes:
    """The bytes after each damage in turn."""
    for name, *arguments in damages:
        if name == "header":
            offset, width, value, is_big = arguments
            field = (value % 256**width).to_bytes(width, "big" if is_big else "little")
            data = data[:offset] + field + data[offset + width :]
            continue
        place = len(data) * arguments[0] // 10**6
        match name:
            case "cut":
                data = data[:place]
            case "change":
                data = data[:place] + bytes([arguments[1]]) + data[place + 1 :]
            case "insert":
                data = data[:place] + arguments[1] + data[place:]
            case "drop":
                data = data[:place] + data[place + arguments[1] :]
            case "repeat":
                data = data[:place] + data[place : place + arguments[1]] + data[place:]
    return data


# Image files


@cache
def originals() -> list[tuple[str, bytes]]:
    """Files of every format and several modes, all of one small picture."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 4, 3), dtype=np.uint8))
    image = coarse.resize((24, 40), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(rng.integers(0, 2**16, (40, 24), dtype=np.uint16))
    forms: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", image, {}),
        ("JPEG", image, {"progressive": True, "quality": 60}),
        ("JPEG", image, {"restart_marker_blocks": 2, "subsampling": 0}),
        ("JPEG", image.convert("L"), {"exif": exif}),
        ("JPEG", image.convert("CMYK"), {}),
        *[("PNG", image.convert(mode), {}) for mode in ("1", "L", "P", "RGB", "RGBA", "LA")],
        ("PNG", grey, {}),
        ("PNG", image, {"exif": exif, "compress_level": 0}),
        ("GIF", image.convert("P"), {}),
        ("GIF", image.convert("L"), {"interlace": 1}),
        ("WEBP", image, {}),
        ("WEBP", image.convert("RGBA"), {"lossless": True, "exif": exif}),
        *[("BMP", image.convert(mode), {}) for mode in ("1", "L", "P", "RGB", "RGBA")],
        *[
            ("TIFF", image, {"compression": name})
            for name in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")
        ],
        ("TIFF", grey, {}),
        ("TIFF", image.convert("1"), {"compression": "group4"}),
        ("TIFF", image.convert("CMYK"), {}),
        *[("PPM", image.convert(mode), {}) for mode in ("1", "L", "RGB")],
    ]
    files = []
    for kind, form, options in forms:
        stream = io.BytesIO()
        form.save(stream, kind, **options)
        files.append((kind, stream.getvalue()))
    return files


@st.composite
def image_files(draw: st.DrawFn) -> tuple[int, list[Damage], int | None]:
    """Number of an original, damages, and for PNG possibly a false header with a correct checksum."""
    number = draw(st.integers(0, len(originals()) - 1))
    lie = draw(st.one_of(st.none(), st.integers(0, 2**40))) if originals()[number][0] == "PNG" else None
    return number, draw(st.lists(DAMAGE, max_size=4)), lie


def check_image(drawn: tuple[int, list[Damage], int | None], folder: Path) -> Outcome:
    number, damages, lie = drawn
    kind, whole = originals()[number]
    data = whole if lie is None else with_png_header(whole, lie)
    data = damaged(data, damages)
    try:
        pixels = decode_image(data).pixels
    except BrokenImage:
        expect(bool(damages) or lie is not None, f"a whole {kind} was refused")
        return "refused"
    expect(pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.shape[0] == 3, f"{kind}: {pixels.shape}")
    expect(min(pixels.shape) > 0 and pixels.is_contiguous(), f"{kind}: {pixels.shape}")
    is_cut_only = all(name == "cut" for name, *_ in damages)
    if lie is None and (kind == "PNG" or is_cut_only):  # PNG has checksums; truncated files are complete or rejected
        expect(torch.equal(pixels, expected_pixels(number)), f"a damaged {kind} was read as another picture")
    return "read"


@cache
def expected_pixels(number: int) -> torch.Tensor:
    """Decode with Pillow alone, as a viewer does; the upper 8 of 16 bits."""
    with Image.open(io.BytesIO(originals()[number][1])) as image:
        upright = ImageOps.exif_transpose(image)
    if upright.mode == "I;16":
        grey = (np.asarray(upright) >> 8).astype(np.uint8)
        return torch.from_numpy(np.stack([grey] * 3))
    return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)


def with_png_header(data: bytes, lie: int) -> bytes:
    """Another width, height, depth, colour type or interlacing, with a matching checksum."""
    header = bytearray(data[16:29])
    field, value = lie % 5, lie // 5
    if field < 2:
        header[4 * field : 4 * field + 4] = struct.pack(">I", value % 2**32 if value % 3 else value % 100)
    else:
        header[(8, 9, 12)[field - 2]] = value % 17
    return data[:16] + bytes(header) + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]


# Lists

MISSING = ("", "nan", "NaN", "None", "null", "NA", "N/A", "<NA>", "-1")
SPLITS = {
    "train": ("train", "Train", "bounding_box_train", " train"),
    "query": ("query", "probe", "QUERY"),
    "gallery": ("gallery", "bounding_box_test", "Gallery", "test"),
}
NAMES = [f"{letter}.png" for letter in "abcdef"]


@st.composite
def cells(draw: st.DrawFn) -> tuple[int | str | None, str]:
    """Intended values and their spellings."""
    meant = draw(st.one_of(st.none(), st.integers(0, 10**6), st.sampled_from(("ann", "bob", "Ünal", "a b", "Na"))))
    if meant is None:
        return None, draw(st.sampled_from(MISSING))
    return meant, draw(st.sampled_from((str(meant), f"{meant}.0", f" {meant} "))) if isinstance(meant, int) else meant


@st.composite
def lists(draw: st.DrawFn) -> dict[str, Any]:
    """Rows of a list with their spellings, and possibly damage to the bytes."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=len(NAMES)))
    splits = [split for split, _ in zip(draw(st.permutations([*SPLITS] * 2)), names, strict=False)]
    gallery = draw(st.sampled_from(SPLITS["gallery"]))  # next to "gallery", "test" would be a second test set
    return {
        "names": names,
        "splits": draw(st.sampled_from((None, splits))),
        "written": [gallery if split == "gallery" else draw(st.sampled_from(SPLITS[split])) for split in splits],
        "pid": [draw(cells()) for _ in names],
        "camid": [draw(cells()) for _ in names],
        "separator": draw(st.sampled_from((",", ";", "\t", "|", ", "))),
        "encoding": draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-16-le"))),
        "newline": draw(st.sampled_from(("\n", "\r\n"))),
        "header": draw(st.sampled_from((str, str.upper, str.title))),
        "parquet": draw(st.booleans()),
        "damages": draw(st.one_of(st.just([]), st.lists(DAMAGE, max_size=3))),
    }


def check_list(drawn: dict[str, Any], folder: Path) -> Outcome:
    with_images(folder)
    columns = {"path": drawn["names"], **{name: [text for _, text in drawn[name]] for name in ("pid", "camid")}}
    if drawn["splits"] is not None:
        columns["split"] = drawn["written"]
    headings = [drawn["header"](name) for name in columns]
    file = folder / ("list.parquet" if drawn["parquet"] else "list.csv")
    if drawn["parquet"]:
        pq.write_table(pa.table([pa.array(values, pa.string()) for values in columns.values()], names=headings), file)
        data = file.read_bytes()
    else:
        rows = [headings, *zip(*columns.values(), strict=True)]
        text = drawn["newline"].join(drawn["separator"].join(row) for row in rows) + drawn["newline"]
        data = text.encode(drawn["encoding"])
    file.write_bytes(damaged(data, drawn["damages"]))
    expected = expected_rows(drawn)
    try:
        table = read_dataset(DataConfig(layout="parquet" if drawn["parquet"] else "csv", root=str(file))).table
    except UserError:
        expect(bool(drawn["damages"]) or expected is None, "a good list was refused")
        return "refused"
    if not drawn["damages"]:
        arrow = table.arrow.to_pydict()
        names = [Path(path).name for path in arrow["path"]]
        found = list(zip(names, arrow["pid"], arrow["camid"], arrow["split"], strict=True))
        expect(found == expected, f"{found} instead of {expected}")
    return "read"


def expected_rows(drawn: dict[str, Any]) -> list[tuple[str, int, int, str]] | None:
    """The intended table; None if it lacks a required split."""
    names, splits = drawn["names"], drawn["splits"] or ["train"] * len(drawn["names"])
    if "train" not in splits or ("query" in splits) != ("gallery" in splits):
        return None
    meant = {column: [value for value, _ in drawn[column]] for column in ("pid", "camid")}
    numbers = {}
    for column, values in meant.items():
        known = {value for value in values if value is not None}
        if all(isinstance(value, int) for value in known):
            order = {value: value if column == "pid" else rank for rank, value in enumerate(sorted(known))}
        else:
            order = {value: rank for rank, value in enumerate(sorted(known, key=str))}
        numbers[column] = [-1 if value is None else order[value] for value in values]
    rows = list(zip(names, numbers["pid"], numbers["camid"], splits, strict=True))
    return sorted(rows, key=lambda row: ("train", "query", "gallery").index(row[3]))


def with_images(folder: Path) -> None:
    """Six different images in a folder, created once."""
    if not (folder / NAMES[-1]).exists():
        for shade, name in enumerate(NAMES):
            Image.new("RGB", (4, 6), (shade, 0, 0)).save(folder / name)


# Configurations

SCALARS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.sampled_from(
        ("null", "true", "no", "[]", "{}", "[1, 2]", "{a: 1}", "'x'", "!!python/object:os.x {}", "*a", "~", "")
    ),
    st.text(max_size=12),
)


@st.composite
def configurations(draw: st.DrawFn) -> tuple[str, list[str]]:
    bad = draw(st.booleans())
    known = st.sampled_from(sorted(known_keys()))
    keys, values = (st.one_of(known, st.text(max_size=10)), SCALARS) if bad else (known, st.integers(1, 64).map(str))
    overrides = [f"{draw(keys)}={draw(values)}" for _ in range(draw(st.integers(0, 4)))] + ["data.layout=synthetic"]
    recipes = st.sampled_from(recipe_names())
    return draw(st.one_of(recipes, st.text(max_size=200)) if bad else recipes), overrides


def check_configuration(drawn: tuple[str, list[str]], folder: Path) -> Outcome:
    recipe, overrides = drawn
    if recipe not in recipe_names():
        (folder / "recipe.yaml").write_bytes(recipe.encode("utf-8", "surrogatepass"))
        recipe = str(folder / "recipe.yaml")
    try:
        config = load_config(recipe, overrides)
    except UserError:
        return "refused"
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    expect(load_config(folder / "config.yaml") == config, "a configuration changes when it is written and read")
    return "read"


# Arrays


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Any, str, str]:
    others = st.sampled_from(("float32", "int64", "bool", "complex64"))
    dtype = draw(st.one_of(st.just("uint8"), st.just("uint16"), others))
    shapes = st.one_of(
        np_st.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        st.tuples(st.integers(1, 5), st.integers(1, 5)),
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from((1, 3, 4))),
        st.tuples(st.sampled_from((1, 3, 4)), st.integers(1, 5), st.integers(1, 5)),
    )
    array = draw(np_st.arrays(dtype, draw(shapes)))
    return (
        array,
        draw(st.sampled_from(("numpy", "tensor", "transposed", "pillow"))),
        draw(st.sampled_from(("rgb", "bgr"))),
    )


def check_array(drawn: tuple[Any, str, Any], folder: Path) -> Outcome:
    array, container, channels = drawn
    given: Any = array
    if container == "tensor":
        given = torch.from_numpy(array.copy())
    elif container == "transposed":
        given = array.T.copy().T
    elif container == "pillow":
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
            return "refused"
        if not array.size:
            return "refused"
        given, channels = Image.fromarray(array), "rgb"
    expected = naive_pixels(array, channels, channels_first=container == "tensor")
    try:
        pixels = to_pixels(given, channels=channels)
    except UserError:
        expect(expected is None, "a good array was refused")
        return "refused"
    expect(pixels.tolist() == expected, f"{pixels.tolist()} instead of {expected}")
    return "read"


def naive_pixels(array: Any, channels: str, *, channels_first: bool) -> Any:
    """Convert pixel by pixel; None if the input is not an image."""
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3) or 0 in array.shape:
        return None
    if array.ndim == 2:
        height, width, n = *array.shape, 1
    else:
        n, height, width = array.shape if channels_first else (array.shape[2], *array.shape[:2])
    if n not in (1, 3, 4):
        return None
    order = (0, 0, 0) if n == 1 else (0, 1, 2) if channels == "rgb" else (2, 1, 0)

    def value(c: int, y: int, x: int) -> int:
        found = array[y, x] if array.ndim == 2 else array[c, y, x] if channels_first else array[y, x, c]
        return int(found) // 256 if array.dtype == np.uint16 else int(found)

    return [[[value(c, y, x) for x in range(width)] for y in range(height)] for c in order]


# Rankings


@st.composite
def rankings(draw: st.DrawFn) -> dict[str, Any]:
    bad = draw(st.integers(0, 4)) == 0
    n_queries, n_gallery = draw(st.integers(0 if bad else 1, 4)), draw(st.integers(0 if bad else 1, 7))
    values = st.integers(-2, 2).map(float)  # exact products, many ties
    ids = st.sampled_from((-1, 0, 1, 2, *((0.5, math.nan, "x", None) if bad else ())))

    def features(n: int) -> Any:
        return np.array([[draw(values) for _ in range(2)] for _ in range(n)], np.float32).reshape(n, 2)

    def column(n: int) -> list[Any]:
        return [draw(ids) for _ in range(n)]

    return {
        "query": features(n_queries),
        "gallery": features(n_gallery),
        "q_pids": column(n_queries),
        "g_pids": column(n_gallery),
        "q_camids": column(n_queries),
        "g_camids": column(n_gallery),
    }


def check_ranking(drawn: dict[str, Any], folder: Path) -> Outcome:
    is_good = all(isinstance(value, int) for name in drawn if "ids" in name for value in drawn[name])
    is_good = is_good and bool(len(drawn["query"])) and bool(len(drawn["gallery"]))
    try:
        scores = score_queries(**drawn)
    except UserError:
        expect(not is_good, "a good ranking was refused")
        return "refused"
    if is_good:
        expected = [naive_ap(drawn, q) for q in range(len(drawn["query"]))]
        expect(np.allclose(scores.ap, expected, equal_nan=True), f"{scores.ap} instead of {expected}")
    return "read"


def naive_ap(drawn: dict[str, Any], q: int) -> float:
    """Average precision of one query: sort, walk down, count. NaN where it is not counted."""
    ranked = sorted(range(len(drawn["gallery"])), key=lambda g: (-float(drawn["query"][q] @ drawn["gallery"][g]), g))
    pid, camid = drawn["q_pids"][q], drawn["q_camids"][q]
    hits, rank, total = 0, 0, 0.0
    for g in ranked:
        same = drawn["g_pids"][g] == pid
        if drawn["g_pids"][g] == -1 or (same and camid != -1 and drawn["g_camids"][g] == camid):
            continue
        rank += 1
        if same:
            hits += 1
            total += hits / rank
    return total / hits if hits and pid != -1 else math.nan


# Clusterings


@st.composite
def clusterings(draw: st.DrawFn) -> dict[str, Any]:
    n_rows, bad = draw(st.integers(0, 12)), draw(st.booleans())
    angles = st.integers(0, 15).map(lambda i: i * math.pi / 8)  # duplicates and opposites
    features = np.array([(math.cos(a), math.sin(a)) for a in (draw(angles) for _ in range(n_rows))], np.float32)
    distances = st.sampled_from((0.0, 0.3, 0.6, 0.9, *((-1.0, 1.0, 1.5, math.nan, math.inf) if bad else ())))
    return {
        "features": features.reshape(n_rows, 2),
        "k1": draw(st.integers(0 if bad else 1, 6)),
        "k2": draw(st.integers(0 if bad else 1, 4)),
        "max_distance": draw(distances),
        "eps": draw(distances),
        "min_samples": draw(st.sampled_from((1, 2, 3, *((0, 2.5) if bad else ())))),
    }


def check_clustering(drawn: dict[str, Any], folder: Path) -> Outcome:
    limit, eps, min_samples = drawn["max_distance"], drawn["eps"], drawn["min_samples"]
    is_good = drawn["k1"] > 0 and drawn["k2"] > 0 and 0 <= limit <= 1 and 0 <= eps <= limit and eps < 1
    is_good = is_good and min_samples in (1, 2, 3)
    try:
        graph = jaccard_graph(
            drawn["features"], k1=drawn["k1"], k2=drawn["k2"], max_distance=limit, variant="spcl", device="cpu"
        )
        labels = dbscan(graph, eps=eps, min_samples=min_samples)
    except UserError:
        expect(not is_good, "a good clustering was refused")
        return "refused"
    expect(is_good, "invalid settings gave a clustering")
    if len(labels):
        dense = np.full(graph.shape, 9.0, np.float32)
        entries = graph.tocoo()
        dense[entries.row, entries.col] = entries.data
        above_zero = np.nextafter(np.float32(eps), np.float32(1)) if eps == 0 else np.float32(eps)
        near = (dense <= np.float32(eps)).astype(np.float32)
        expected = DBSCAN(eps=0.5, min_samples=min_samples, metric="precomputed").fit_predict(1 - near)
        expect(above_zero >= 0 and labels.tolist() == expected.tolist(), f"{labels} instead of {expected}")
    return "read"


# Packed datasets and weights


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


KINDS = {
    "images": Kind(image_files(), check_image),
    "lists": Kind(lists(), check_list),
    "configurations": Kind(configurations(), check_configuration),
    "arrays": Kind(arrays(), check_array),
    "rankings": Kind(rankings(), check_ranking),
    "clusterings": Kind(clusterings(), check_clustering),
    "packed": Kind(packed_datasets(), check_packed),
    "weights": Kind(weights_files(), check_weights),
}

SHARES = {
    "images": 0.5,
    "lists": 0.12,
    "configurations": 0.08,
    "arrays": 0.08,
    "rankings": 0.06,
    "clusterings": 0.04,
    "packed": 0.06,
    "weights": 0.06,
}
"""Shares of all cases: files reach native code, so they get the most."""
