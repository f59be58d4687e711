"""`reid-ray label`: what it writes and prints, and the one-line message of each user error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from reid_ray.cli import main
from reid_ray.config import LabelsConfig
from reid_ray.labels.refresh import cluster_rows
from reid_ray.labels.sweep import Setting, parse_grid, sweep

N_ROWS = 72

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `reid-ray label` in this process; return the exit code and the output on one line."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["reid-ray", "label", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return int(ended.value.code or 0), " ".join((captured.err + captured.out).split())

    return run


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Nine images of each of eight people, by three cameras, with the table of rows next to them."""
    rng = np.random.default_rng(0)
    pids = np.arange(N_ROWS) % 8
    values = rng.normal(size=(8, 16))[pids] + 0.2 * rng.normal(size=(N_ROWS, 16))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    np.save(tmp_path / "x.npy", values.astype(np.float32))
    rows = {"path": [f"{i}.jpg" for i in range(N_ROWS)], "pid": pids, "camid": np.arange(N_ROWS) % 3}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    return tmp_path / "x.npy"


SMALL = ("labels.k1=8", "labels.k2=3", "labels.min_samples=3")


@pytest.mark.parametrize("options", [("labels.k1=500",), ("--sweep", "k1=8,500", "labels.k2=3")])
def test_more_neighbours_than_images(
    command: Command, features: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    out = tmp_path / "labels.parquet"
    assert_refused(
        command(features, *options, "--out", out), "labels.k1=500 needs at least 501 images, but there are 72"
    )
    assert not out.exists()


def assert_refused(result: tuple[int, str], *parts: str) -> None:
    code, text = result
    assert code == 2, text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize("variant", ["spcl", "cvpr17", "camera"])
def test_writes_the_labels_of_a_refresh(command: Command, features: Path, tmp_path: Path, variant: str) -> None:
    out = tmp_path / "labels.parquet"
    code, text = command(features, "--out", out, *SMALL, f"labels.variant={variant}", "--device", "cpu")
    assert code == 0, text
    written = pq.read_table(out)
    rows = pq.read_table(features.with_suffix(".parquet"))
    assert written.column_names == ["path", "pid", "camid", "label"]
    assert written.drop_columns("label").equals(rows)
    config = LabelsConfig(k1=8, k2=3, min_samples=3, variant=variant)
    expected = cluster_rows(np.load(features), config, rows["camid"].to_numpy(), device="cpu")
    np.testing.assert_array_equal(written["label"].to_numpy(), expected.labels)
    assert expected.labels.max() == 7
    for stage in expected.seconds:
        assert stage in text
    for part in ("total", "Peak memory", "n_clusters", "silhouette", "camera_mix", "pairwise_f1", str(out)):
        assert part in text, part


def test_without_a_table_rows_are_numbered(command: Command, features: Path, tmp_path: Path) -> None:
    features.with_suffix(".parquet").unlink()
    out = tmp_path / "labels.parquet"
    code, text = command(features, "--out", out, *SMALL)
    assert code == 0, text
    assert pq.read_table(out)["row"].to_pylist() == list(range(N_ROWS))
    assert "camera_mix" not in text
    assert "pairwise_f1" not in text


def test_existing_labels_are_replaced(command: Command, features: Path, tmp_path: Path) -> None:
    """Run on its own output: one column of labels, and no other file in the folder."""
    out = tmp_path / "labels.parquet"
    command(features, "--out", out, *SMALL)
    first = pq.read_table(out)
    code, text = command(features, "--out", out, "--table", out, *SMALL)
    assert code == 0, text
    assert pq.read_table(out).equals(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.parquet", "x.npy", "x.parquet"]


@pytest.mark.parametrize("clusterer", ["kmeans", "hdbscan"])
def test_other_clusterers(command: Command, features: Path, tmp_path: Path, clusterer: str) -> None:
    out = tmp_path / "labels.parquet"
    code, text = command(features, "--out", out, *SMALL, f"labels.clusterer={clusterer}", "labels.n_clusters=8")
    assert code == 0, text
    config = LabelsConfig(k1=8, k2=3, min_samples=3, clusterer=clusterer, n_clusters=8)
    expected = cluster_rows(np.load(features), config, np.zeros(N_ROWS, dtype=np.int64), device="cpu")
    np.testing.assert_array_equal(pq.read_table(out)["label"].to_numpy(), expected.labels)
    assert expected.labels.max() >= 7


def test_float64_features_are_read(command: Command, features: Path, tmp_path: Path) -> None:
    np.save(features, np.load(features).astype(np.float64))
    assert command(features, "--out", tmp_path / "labels.parquet", *SMALL)[0] == 0


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_sweep(command: Command, features: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"sweep.{suffix}"
    grid = ("--sweep", "k1=6,8", "--sweep", "eps=.4:.6:.1")
    code, text = command(features, *grid, "--out", out, "labels.min_samples=3", "labels.k2=2")
    assert code == 0, text
    results = pq.read_table(out) if suffix == "parquet" else pacsv.read_csv(out)
    assert results["k1"].to_pylist() == [6, 6, 6, 8, 8, 8]
    assert results["eps"].to_pylist() == [0.4, 0.5, 0.6] * 2
    assert set(results["min_samples"].to_pylist()) == {3}
    assert {"n_clusters", "silhouette", "camera_mix", "pairwise_f1", "seconds"} <= set(results.column_names)
    assert "6 settings in" in text
    best = max(results["label_free"].to_pylist())
    assert 0 < best < 1
    assert f"{best:.4g}*" in text


@pytest.mark.parametrize("named", [False, True])
def test_a_sweep_knows_tracklets(command: Command, features: Path, tmp_path: Path, named: bool) -> None:
    """Those of a table, which may be names or numbers, and are others in another split."""
    rng = np.random.default_rng(0)
    tracklets, splits = rng.integers(-1, 20, N_ROWS), rng.integers(0, 2, N_ROWS)
    columns = {"split": np.array(["query", "gallery"])[splits]}
    columns["tracklet"] = pa.array([None if t < 0 else f"T{t:02}" for t in tracklets]) if named else tracklets
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    grid = ["eps=.4:.6:.1"]
    assert command(features, "--sweep", *grid, "--out", tmp_path / "sweep.parquet", *SMALL)[0] == 0
    own = Setting(k1=8, k2=3, min_samples=3)
    values, numbers = np.load(features), np.where(tracklets < 0, -1, 2 * tracklets + splits)
    known, unknown = (sweep(values, parse_grid(grid, own), tracklets=given, device="cpu") for given in (numbers, None))
    found = pq.read_table(tmp_path / "sweep.parquet")["label_free"].to_pylist()
    assert found == [result["label_free"] for result in known]
    assert found != [result["label_free"] for result in unknown]


def test_sweep_without_out_writes_no_file(command: Command, features: Path, tmp_path: Path) -> None:
    assert command(features, "--sweep", "eps=.4:.6:.1", *SMALL)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "x.parquet"]


@pytest.mark.parametrize(
    "arguments",
    [(), ("labels.clusterer=kmeans", "labels.n_clusters=8"), ("--sweep", "eps=.4,.5"), ("--neighbours", "ivf")],
)
def test_features_are_checked_once(
    command: Command, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """A check is a pass over all features, which may be on a slow disk."""
    if "ivf" in arguments:
        pytest.importorskip("faiss", reason="the extra 'ann' is not installed")
    checked = []
    for module in ("tasks", "sweep", "neighbours.exact", "neighbours.approximate"):
        monkeypatch.setattr(f"reid_ray.labels.{module}.check_features", checked.append)
    code, text = command(features, "--out", tmp_path / "labels.parquet", *SMALL, *arguments)
    assert code == 0, text
    assert len(checked) == 1


def unnormalized(values: Any) -> Any:
    return 2 * values


def non_finite(values: Any) -> Any:
    return np.where(np.arange(len(values))[:, None] == 5, np.nan, values)


def flat(values: Any) -> Any:
    return values.ravel()


def integers(values: Any) -> Any:
    return values.astype(np.int64)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (unnormalized, ["norm", "row 0"]),
        (non_finite, ["row 5", "not finite"]),
        (flat, ["matrix"]),
        (integers, ["floats"]),
    ],
)
def test_invalid_features_are_refused(
    command: Command, features: Path, tmp_path: Path, change: Callable[[Any], Any], parts: list[str]
) -> None:
    np.save(features, change(np.load(features)))
    assert_refused(command(features, "--out", tmp_path / "labels.parquet"), "error:", *parts)
    assert not (tmp_path / "labels.parquet").exists()


def test_missing_and_damaged_files_are_refused(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "labels.parquet"
    assert_refused(command(tmp_path / "none.npy", "--out", out), "none.npy", "does not exist", "extract")
    (tmp_path / "text.npy").write_text("not an array")
    assert_refused(command(tmp_path / "text.npy", "--out", out), "text.npy", "cannot be read")


def test_table_that_does_not_fit_is_refused(command: Command, features: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.parquet"
    assert_refused(command(features, "--out", out, "--table", tmp_path / "no.parquet"), "no.parquet", "does not exist")
    short = tmp_path / "short.parquet"
    pq.write_table(pa.table({"camid": [1, 2]}), short)
    assert_refused(command(features, "--out", out, "--table", short), "2 rows", str(N_ROWS))
    pq.write_table(pa.table({"camid": ["a"] * N_ROWS}), short)
    assert_refused(command(features, "--out", out, "--table", short), "camid", "whole numbers")
    short.write_text("no table")
    assert_refused(command(features, "--out", out, "--table", short), "short.parquet", "Parquet")
    features.with_suffix(".parquet").unlink()
    assert_refused(command(features, "--out", out, "labels.variant=camera"), "camera", "camid")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("labels.epsilon=.5",), ["labels.epsilon", "labels.eps"]),
        (("training.epochs=3",), ["training.epochs=3", "labels.KEY=VALUE"]),
        (("labels.eps=2",), ["labels.eps"]),
        (("labels.variant=other",), ["labels.variant"]),
        (("--device", "nowhere"), ["--device nowhere"]),
        (("--neighbours", "guess"), ["guess"]),
        (("--sweep", "eps=.7:.4:.1"), [".7:.4:.1", "START:STOP:STEP"]),
        (("--sweep", "epsilon=.4"), ["epsilon=.4", "eps"]),
        (("--sweep", "eps=.4", "labels.clusterer=kmeans"), ["--sweep", "DBSCAN"]),
        (("--sweep", "eps=.4", "--neighbours", "ivf"), ["--sweep", "exact"]),
    ],
)
def test_invalid_settings_are_refused(
    command: Command, features: Path, tmp_path: Path, arguments: tuple[str, ...], parts: list[str]
) -> None:
    assert_refused(command(features, "--out", tmp_path / "labels.parquet", *arguments), *parts)


def test_approximate_neighbours(command: Command, features: Path, tmp_path: Path) -> None:
    """faiss finds the same eight clusters."""
    pytest.importorskip("faiss", reason="the extra 'ann' is not installed")
    out = tmp_path / "labels.parquet"
    code, text = command(features, "--out", out, "--neighbours", "ivf", *SMALL)
    assert code == 0, text
    assert len(set(pq.read_table(out)["label"].to_pylist()) - {-1}) == 8
    assert "labels.neighbours=ivf" in text


def test_unwritable_output_is_refused(command: Command, features: Path, tmp_path: Path) -> None:
    assert_refused(command(features), "--out labels.parquet")
    assert_refused(command(features, "--out", tmp_path / "labels.txt"), ".parquet")
    assert_refused(command(features, "--out", tmp_path / "labels.csv"), ".parquet")
    assert_refused(command(features, "--out", tmp_path / "no" / "labels.parquet"), "does not exist")
    (tmp_path / "folder.parquet").mkdir()
    assert_refused(command(features, "--out", tmp_path / "folder.parquet"), "cannot be written")


def test_a_full_disk(command: Command, features: Path, tmp_path: Path, file_size_limit: Callable[..., Any]) -> None:
    with file_size_limit(200):
        result = command(features, "--out", tmp_path / "labels.parquet", *SMALL)
    assert_refused(result, "labels.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "x.parquet"]


def test_constraints_are_obeyed(command: Command, features: Path, tmp_path: Path) -> None:
    """Images 0 and 8 are in one cluster without them, 0 and 1 are not."""
    file = tmp_path / "constraints.csv"
    out = tmp_path / "labels.parquet"
    file.write_text("path_a,path_b,verdict\n0.jpg,8.jpg,different\n16.jpg,1.jpg,same\n3.jpg,,junk\n")
    code, text = command(features, "--out", out, *SMALL, f"labels.constraints={file}")
    assert code == 0, text
    labels = pq.read_table(out)["label"].to_pylist()
    assert labels[0] != labels[8]
    assert labels[16] == labels[1] != -1
    assert labels[3] == -1
    assert "n_different" in text
    file.write_text("path_a,path_b,verdict\n0.jpg,8.jpg,different\n8.jpg,0.jpg,same\n")
    refused = command(features, "--out", out, *SMALL, f"labels.constraints={file}")
    assert_refused(refused, "line 2: '0.jpg' and '8.jpg' are different, but line 3 makes them the same")
    assert_refused(command(features, "--sweep", "eps=.5", f"labels.constraints={file}"), "remove labels.constraints")
    features.with_suffix(".parquet").unlink()
    refused = command(features, "--out", out, *SMALL, f"labels.constraints={file}")
    assert_refused(refused, "names images, so the features need a table")


def test_questions_are_a_constraints_file(command: Command, features: Path, tmp_path: Path) -> None:
    out, asked = tmp_path / "labels.parquet", tmp_path / "labels-questions.csv"
    code, text = command(features, "--out", out, *SMALL, "labels.eps=0.3", "--ask", 3)
    assert code == 0, text
    assert f"3 questions: {asked}" in text
    before = pq.read_table(out)
    assert len(asked.read_text().splitlines()) == 4
    code, text = command(features, "--out", out, *SMALL, "labels.eps=0.3", f"labels.constraints={asked}")
    assert code == 0, text
    assert pq.read_table(out).equals(before)
    assert_refused(command(features, "--out", out, *SMALL, "--ask", 3, "labels.rho=0.01"), "--ask and --gallery need")
