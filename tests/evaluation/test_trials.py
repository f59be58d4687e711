"""Galleries of SYSU-MM01's trials, the counts of the dataset on an empty copy, and means over trials."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import numpy as np
import pytest
from cross_modal_layouts import SYSU_TEST_IDS, SYSU_VAL_IDS, write_whole_sysu
from hypothesis import given, settings
from scipy.io import savemat
from seeds import SEEDS

from reid_ray.config import DataConfig
from reid_ray.data import read_dataset
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.evaluation import (
    RankMetrics,
    TrialMetrics,
    evaluate_regdb,
    evaluate_sysu_mm01,
    read_sysu_permutations,
    regdb,
    sysu_galleries,
    sysu_mm01,
)
from reid_ray.evaluation.trials import sysu_evaluable


@pytest.fixture(scope="module")
def whole_sysu(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    root = write_whole_sysu(tmp_path_factory.mktemp("whole") / "SYSU-MM01")
    return read_dataset(DataConfig(layout="sysu-mm01", root=str(root))).table


def small_table(seed: int = 0, n: int = 80) -> ImageTable:
    """Images of people 3, 11, 20 and 105 in a random order, most of them visible; one of an unknown person."""
    rng = np.random.default_rng(seed)
    pids, cameras = rng.choice([3, 11, 20, 105], n), rng.choice([1, 2, 4, 5, 3, 6], n, p=[0.2] * 4 + [0.1] * 2)
    pids[0] = -1
    numbers = rng.permutation(n)
    return ImageTable.from_columns(
        path=[f"cam{c}/{p:04d}/{i:04d}.jpg" for c, p, i in zip(cameras, pids, numbers, strict=True)],
        pid=pids,
        camid=cameras - 1,
        split=["query" if camera in (3, 6) else "gallery" for camera in cameras],
        name="small",
    )


def unit(rng: np.random.Generator, n: int, dim: int = 6) -> np.ndarray:
    features = rng.standard_normal((n, dim))
    return features / np.linalg.norm(features, axis=1, keepdims=True)


# The dataset's counts


def test_counts_of_sysu(whole_sysu: ImageTable) -> None:
    train, query, gallery = (whole_sysu.split(name) for name in ("train", "query", "gallery"))
    assert len(set(train.pids.tolist())) == 395
    assert set(query.pids.tolist()) == set(SYSU_TEST_IDS)
    assert set(SYSU_VAL_IDS) < set(train.pids.tolist())
    assert (len(SYSU_TEST_IDS), len(SYSU_VAL_IDS), len(query)) == (96, 99, 3803)
    per_camera = np.bincount(np.concatenate([query.camids, gallery.camids])).tolist()
    assert per_camera == [1374, 1565, 1883, 1918, 1918, 1920]
    assert [len(g) for g in sysu_galleries(gallery)] == [301] * 10
    assert [len(g) for g in sysu_galleries(gallery, search="indoor")] == [112] * 10
    assert len(sysu_galleries(gallery, shots=10, n_trials=1)[0]) == 3010


@pytest.mark.parametrize(("search", "n_queries", "n_skipped"), [("all", 3803, 0), ("indoor", 2208, 1595)])
def test_queries_of_sysu(whole_sysu: ImageTable, search: str, n_queries: int, n_skipped: int) -> None:
    rng = np.random.default_rng(0)
    features = [unit(rng, len(whole_sysu.split(name)), 4) for name in ("query", "gallery")]
    metrics = evaluate_sysu_mm01(*features, whole_sysu, search=search, n_trials=2)
    for trial in metrics.trials:
        assert (trial.n_queries, trial.n_skipped) == (n_queries, n_skipped)
    assert metrics.mean()["n_skipped"] == n_skipped


# Galleries


def galleries_by_loop(table: ImageTable, cameras: list[int], trial: int) -> list[int]:
    """As the widely used code draws: seed with the trial, then person by person and camera by camera."""
    random.seed(trial)
    gallery = []
    for pid in sorted(set(table.pids.tolist()) - {-1}):
        for camera in cameras:
            files = sorted(
                path
                for path, p, c in zip(table.paths, table.pids, table.camids, strict=True)
                if (p, c + 1) == (pid, camera)
            )
            if files:
                gallery.append(table.paths.index(random.choice(files)))
    return gallery


@pytest.mark.parametrize(("search", "cameras"), [("all", [1, 2, 4, 5]), ("indoor", [1, 2])])
@settings(max_examples=3)
@given(seed=SEEDS)
def test_single_shot_galleries_are_those_of_the_common_code(seed: int, search: str, cameras: list[int]) -> None:
    table = small_table(seed)
    state = random.getstate()
    drawn = sysu_galleries(table, search=search)
    assert random.getstate() == state
    assert [gallery.tolist() for gallery in drawn] == [galleries_by_loop(table, cameras, t) for t in range(10)]
    assert len({tuple(gallery) for gallery in drawn}) > 1
    random.setstate(state)


@pytest.mark.parametrize("shots", [2, 10])
def test_multi_shot_galleries(shots: int) -> None:
    table = small_table()
    for gallery in sysu_galleries(table, shots=shots):
        rows = gallery.tolist()
        assert len(set(rows)) == len(rows)
        for pid in (3, 11, 20, 105):
            for camera in (1, 2, 4, 5):
                there = sum((table.pids == pid) & (table.camids == camera - 1))
                taken = sum((table.pids[gallery] == pid) & (table.camids[gallery] == camera - 1))
                assert taken == min(shots, there)
        assert set(table.camids[gallery].tolist()) <= {0, 1, 3, 4}
        keys = list(zip(table.pids[gallery], table.camids[gallery], strict=True))
        assert keys == sorted(keys)
    first, again = sysu_galleries(table, shots=shots), sysu_galleries(table, shots=shots)
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))


def test_the_order_of_the_table_does_not_matter() -> None:
    table = small_table()
    order = np.random.default_rng(1).permutation(len(table))
    shuffled = table.take(order)
    for one, other in zip(sysu_galleries(table), sysu_galleries(shuffled), strict=True):
        assert [table.paths[row] for row in one] == [shuffled.paths[row] for row in other]


def test_a_gallery_without_the_cameras() -> None:
    table = ImageTable.from_columns(path=["0001.jpg"], pid=[3], camid=[3], split="gallery", name="outdoors")
    with pytest.raises(DataError, match="outdoors has no images by the cameras 1, 2 of SYSU-MM01's indoor search"):
        sysu_galleries(table, search="indoor")
    with pytest.raises(DataError, match="no images by the cameras 1, 2, 4, 5"):
        sysu_galleries(table.without_cameras())


def write_permutations(path: Path, table: ImageTable, rng: np.random.Generator, n_trials: int = 10) -> dict:
    """`rand_perm_cam.mat` of a table, as cells of cells of matrices; returns (camera, pid) → matrix."""
    expected = {}
    cameras = np.empty((6, 1), dtype=object)
    for camera in range(1, 7):
        people = np.empty((110, 1), dtype=object)
        for pid in range(1, 111):
            numbers = [
                int(Path(image).stem)
                for image, p, c in zip(table.paths, table.pids, table.camids, strict=True)
                if (p, c + 1) == (pid, camera)
            ]
            people[pid - 1, 0] = np.array([rng.permutation(numbers) for _ in range(n_trials)]).astype(np.uint8)
            if numbers:
                expected[camera, pid] = people[pid - 1, 0]
        cameras[camera - 1, 0] = people
    savemat(path, {"rand_perm_cam": cameras})
    return expected


def test_the_authors_permutations(tmp_path: Path) -> None:
    table = small_table()
    expected = write_permutations(tmp_path / "rand_perm_cam.mat", table, np.random.default_rng(2))
    permutations = read_sysu_permutations(tmp_path / "rand_perm_cam.mat")
    assert permutations.keys() == expected.keys()
    assert all(np.array_equal(permutations[key], matrix) for key, matrix in expected.items())
    for shots in (1, 3):
        for trial, gallery in enumerate(sysu_galleries(table, shots=shots, permutations=permutations)):
            names = [
                f"cam{camera}/{pid:04d}/{number:04d}.jpg"
                for pid in (3, 11, 20, 105)
                for camera in (1, 2, 4, 5)
                for number in expected.get((camera, pid), np.empty((10, 0)))[trial, :shots]
            ]
            assert [table.paths[row] for row in gallery] == names


def test_permutations_of_another_copy(tmp_path: Path) -> None:
    table = small_table()
    permutations = dict(write_permutations(tmp_path / "x.mat", table, np.random.default_rng(2), n_trials=4))
    with pytest.raises(DataError, match="do not name the images of person 3 by camera 1 in trial 5"):
        sysu_galleries(table, permutations=permutations)
    permutations[1, 3] = permutations[1, 3][:, 1:]
    with pytest.raises(DataError, match="person 3 by camera 1 in trial 1; they belong to a different copy"):
        sysu_galleries(table, permutations=permutations)
    (tmp_path / "y.mat").write_bytes(b"no")
    savemat(tmp_path / "z.mat", {"other": np.ones(3)})
    savemat(tmp_path / "numbers.mat", {"rand_perm_cam": np.ones(3)})
    for name in ("nowhere.mat", "y.mat", "z.mat", "numbers.mat"):
        with pytest.raises(DataError, match=rf"Cannot read .*{name} as SYSU-MM01's rand_perm_cam.mat"):
            read_sysu_permutations(tmp_path / name)


# Whole protocols


@pytest.mark.parametrize(("search", "shots"), [("all", 1), ("all", 10), ("indoor", 1)])
def test_the_protocol_is_the_rule_on_every_gallery(search: str, shots: int) -> None:
    table = small_table()
    rng = np.random.default_rng(0)
    query, gallery = table.split("query"), table.split("gallery")
    q_features, g_features = unit(rng, len(query)), unit(rng, len(gallery))
    metrics = evaluate_sysu_mm01(q_features, g_features, table, search=search, shots=shots)
    expected = [
        sysu_mm01(
            q_features, g_features[rows], query.pids, gallery.pids[rows], query.camids + 1, gallery.camids[rows] + 1
        ).as_dict()
        for rows in sysu_galleries(gallery, search=search, shots=shots)
    ]
    assert [trial.as_dict() for trial in metrics.trials] == expected
    for name in ("mAP", "R1", "mINP"):
        values = [row[name] for row in expected]
        assert metrics.mean()[name] == pytest.approx(statistics.mean(values))
        assert metrics.as_dict()[name] == metrics.mean()[name]
        assert metrics.as_dict()[f"{name}_std"] == pytest.approx(statistics.stdev(values))
    with pytest.raises(DataError, match=r"small/gallery has .* features; pass one per image"):
        evaluate_sysu_mm01(q_features, g_features[1:], table)


def test_one_trial_has_no_deviation() -> None:
    trial = RankMetrics(0.5, np.full(50, 0.7), 0.2, 10, 1)
    assert TrialMetrics((trial,)).deviation()["mAP"] == 0
    assert TrialMetrics((trial,)).mean()["R1"] == pytest.approx(0.7)


def test_regdb_in_both_directions() -> None:
    rng = np.random.default_rng(0)
    n = 30
    table = ImageTable.from_columns(
        path=[f"{i}.bmp" for i in range(2 * n)],
        pid=rng.integers(0, 6, 2 * n),
        camid=[0] * n + [1] * n,
        split=["query"] * n + ["gallery"] * n,
    )
    visible, thermal = unit(rng, n), unit(rng, n)
    metrics = evaluate_regdb(visible, thermal, table)
    pids = table.pids[:n], table.pids[n:]
    assert metrics["v2t"].as_dict() == regdb(visible, thermal, *pids).as_dict()
    assert metrics["t2v"].as_dict() == regdb(thermal, visible, *pids[::-1]).as_dict()
    assert metrics["v2t"].mAP != metrics["t2v"].mAP


def test_the_synthetic_infrared_worlds_fit_the_protocols() -> None:
    """Cameras, splits and modalities as the two datasets have them; features are random."""
    rng = np.random.default_rng(0)
    for spectrum, n_cameras in (("near_infrared", 6), ("thermal", 2)):
        world = {"spectrum": spectrum, "n_cameras": n_cameras, "n_train_ids": 1, "n_test_ids": 4}
        table = read_dataset(DataConfig(synthetic=world)).table
        features = [unit(rng, len(table.split(name))) for name in ("query", "gallery")]
        if spectrum == "near_infrared":
            assert sysu_evaluable(table) is None
            assert evaluate_sysu_mm01(*features, table).trials[0].n_queries == len(features[0])
            visible = set(
                zip(table.split("gallery").pids.tolist(), table.split("gallery").camids.tolist(), strict=True)
            )
            assert [len(rows) for rows in sysu_galleries(table.split("gallery"))] == [len(visible)] * 10
        else:
            assert evaluate_regdb(*features, table)["v2t"].n_queries == len(features[0])
