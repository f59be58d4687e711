"""The synthetic world as a dataset: ground truth, determinism, keys, and how hard it is."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.synthetic import SyntheticImages, contact_sheet, make_dataset
from reid_ray.data.synthetic.schedule import Shot, parse_key, schedule
from reid_ray.errors import DataError

SMALL = SyntheticConfig(n_train_ids=6, n_test_ids=8, n_cameras=4, images_per_id=10, height=64, width=32)


def test_counts_splits_and_order() -> None:
    dataset = make_dataset(SMALL)
    table = dataset.table
    assert len(table) == 14 * 10
    assert set(dataset.train.pids.tolist()) == set(range(6))
    assert set(dataset.query.pids.tolist()) | set(dataset.gallery.pids.tolist()) == set(range(6, 14))
    assert not set(dataset.train.pids.tolist()) & set(dataset.gallery.pids.tolist())
    assert np.bincount(table.pids).tolist() == [10] * 14
    assert len(set(table.paths)) == len(table)
    splits = [{"train": 0, "query": 1, "gallery": 2}[name] for name in table.arrow["split"].to_pylist()]
    keys = [(s, parse_key(path, SMALL)) for s, path in zip(splits, table.paths, strict=True)]
    assert keys == sorted(keys)


def test_the_table_says_what_the_keys_say() -> None:
    table = make_dataset(SMALL).table
    shots = [parse_key(path, SMALL) for path in table.paths]
    assert [shot.pid for shot in shots] == table.pids.tolist()
    assert [shot.camid for shot in shots] == table.camids.tolist()
    tracklets = table.arrow["tracklet"].to_pylist()
    walks = {(shot.pid, shot.camid, shot.tracklet): number for shot, number in zip(shots, tracklets, strict=True)}
    assert len(walks) == len(set(walks.values())) == len(set(tracklets))
    assert set(table.camids.tolist()) <= set(range(SMALL.n_cameras))


@pytest.mark.parametrize(
    ("n_cameras", "images_per_id"), [(6, 16), (2, 2), (2, 3), (3, 4), (1, 5), (6, 1), (2, 30), (20, 7)]
)
def test_every_query_has_a_match_at_another_camera(n_cameras: int, images_per_id: int) -> None:
    config = SyntheticConfig(n_train_ids=1, n_test_ids=12, n_cameras=n_cameras, images_per_id=images_per_id)
    dataset = make_dataset(config)
    g_pids, g_camids = dataset.gallery.pids, dataset.gallery.camids
    for pid, camid in zip(dataset.query.pids, dataset.query.camids, strict=True):
        assert ((g_pids == pid) & (g_camids != camid)).any()
    asked = list(zip(dataset.query.pids.tolist(), dataset.query.camids.tolist(), strict=True))
    assert len(set(asked)) == len(asked)
    assert len(dataset.query) + len(dataset.gallery) == 12 * images_per_id
    if n_cameras > 1 and images_per_id > 1:
        assert set(dataset.query.pids.tolist()) == set(range(1, 13))


def test_no_test_people() -> None:
    dataset = make_dataset(SyntheticConfig(n_train_ids=2, n_test_ids=0, images_per_id=3))
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (6, 0, 0)


@pytest.mark.parametrize(("height", "width"), [(128, 64), (64, 32), (32, 16), (100, 45)])
def test_shape_and_dtype(height: int, width: int) -> None:
    config = SyntheticConfig(n_train_ids=1, n_test_ids=0, images_per_id=2, height=height, width=width)
    dataset = make_dataset(config)
    image = dataset.images.read(dataset.table.paths[0])
    assert image.shape == (3, height, width)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert image.float().std() > 10


def _digest(images: SyntheticImages, paths: list[str]) -> str:
    return hashlib.sha256(b"".join(images.read(path).numpy().tobytes() for path in paths)).hexdigest()


def test_same_bytes_in_any_order_after_pickling_and_in_another_process() -> None:
    dataset = make_dataset(SMALL)
    images = SyntheticImages(SMALL)
    paths = dataset.table.paths[::9]
    expected = {path: images.read(path) for path in paths}
    pickled = pickle.dumps(images)
    assert len(pickled) < 1000
    restored = pickle.loads(pickled)
    for path in reversed(paths):
        assert torch.equal(restored.read(path), expected[path])
    program = (
        "import sys, pickle, hashlib\n"
        "images, paths = pickle.loads(sys.stdin.buffer.read())\n"
        "print(hashlib.sha256(b''.join(images.read(p).numpy().tobytes() for p in paths)).hexdigest())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps((images, paths)), capture_output=True, check=True
    )
    assert answer.stdout.decode().strip() == _digest(images, paths)


def test_another_seed_is_another_world() -> None:
    other = SMALL.model_copy(update={"seed": 1})
    assert make_dataset(other).table.paths != make_dataset(SMALL).table.paths
    common = sorted(set(make_dataset(other).table.paths) & set(make_dataset(SMALL).table.paths))
    difference = SyntheticImages(SMALL).read(common[0]).float() - SyntheticImages(other).read(common[0]).float()
    assert difference.abs().mean() > 5


def test_more_images_or_people_leave_training_people_as_they_are() -> None:
    more = SMALL.model_copy(update={"n_train_ids": 9})
    path = make_dataset(SMALL).train.paths[17]
    assert torch.equal(SyntheticImages(SMALL).read(path), SyntheticImages(more).read(path))


@pytest.mark.parametrize(
    "key",
    ["", "p0001/c0/t0/0000", "synthetic/p0001", "synthetic/p9999/c0/t0/0000", "synthetic/p0001/c77/t0/0000",
     "synthetic/p1/c0/t0/0", "/data/cat.jpg", "synthetic/p0001/c0/t0/0099"],
)  # fmt: skip
def test_bad_key(key: str) -> None:
    with pytest.raises(DataError, match=re_quoted(key)):
        SyntheticImages(SMALL).read(key)


def re_quoted(key: str) -> str:
    return f"'{key}'"


def test_a_key_is_written_in_one_way_only() -> None:
    shot = schedule(SMALL, 3)[0]
    assert parse_key(shot.key, SMALL) == shot
    with pytest.raises(DataError):
        parse_key(shot.key.replace("/p0003/", "/p00003/"), SMALL)
    assert Shot(12345, 0, 0, 0).key == "synthetic/p12345/c0/t0/0000"


def _striped_histograms(images: torch.Tensor) -> np.ndarray:
    """Square-rooted unit RGB histograms [N, D] of six stripes; 4 levels a channel."""
    levels = (images.numpy() // 64).astype(np.int64)
    code = levels[:, 0] * 16 + levels[:, 1] * 4 + levels[:, 2]
    stripes = np.array_split(np.arange(code.shape[1]), 6)
    counts = [[np.bincount(image[rows].ravel(), minlength=64) for rows in stripes] for image in code]
    features = np.sqrt(np.array(counts, dtype=np.float64).reshape(len(code), -1))
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _mean_average_precision(similarity: np.ndarray, pids: np.ndarray, camids: np.ndarray) -> float:
    """Each image queries all others but those of its own person at its own camera."""
    scores = []
    for row in range(len(pids)):
        valid = ~((pids == pids[row]) & (camids == camids[row]))
        hits = (pids[valid] == pids[row])[np.argsort(-similarity[row][valid], kind="stable")]
        if hits.any():
            scores.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return float(np.mean(scores))


def test_colour_alone_is_a_weak_cue_but_tracklets_hang_together() -> None:
    dataset = make_dataset(SyntheticConfig(n_train_ids=30, n_test_ids=0, images_per_id=10, height=64, width=32))
    table = dataset.table
    features = _striped_histograms(torch.stack([dataset.images.read(path) for path in table.paths]))
    similarity = features @ features.T
    assert _mean_average_precision(similarity, table.pids, table.camids) < 0.25
    tracklets = table.arrow["tracklet"].to_numpy()
    same = tracklets[:, None] == tracklets[None]
    np.fill_diagonal(similarity, -np.inf)
    has_mate = same.sum(axis=1) > 1
    nearest = similarity.argmax(axis=1)
    assert (tracklets[nearest] == tracklets)[has_mate].mean() > 0.7
    np.fill_diagonal(same, False)
    other = ~same & ~np.eye(len(same), dtype=bool)
    assert similarity[same].mean() > similarity[other].mean() + 0.2


def test_contact_sheet() -> None:
    dataset = make_dataset(SMALL)
    sheet = contact_sheet(dataset, [3, 1, 2], n_columns=2, gap=1)
    assert sheet.shape == (2 * 65, 2 * 33, 3)
    expected = dataset.images.read(dataset.table.paths[2]).permute(1, 2, 0).numpy()
    assert np.array_equal(sheet[65:129, :32], expected)
    assert (sheet[65:, 33:] == 255).all()
    assert contact_sheet(dataset, []).shape == (0, 0, 3)
