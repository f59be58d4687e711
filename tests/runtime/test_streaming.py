"""Features through Ray Data: the same numbers as in one process, even if an actor dies; resuming a folder."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from small_runs import WIDTH
from torchvision.io import write_jpeg
from typer.testing import CliRunner

from reid_ray.cli import app
from reid_ray.data.feature_folder import FeatureFolder, FolderFeatures, Manifest, read_features
from reid_ray.data.images import FileImages
from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError, DataError, RunError, WeightsError
from reid_ray.run import load_run
from reid_ray.runtime.streaming import gpu_share, stream_features

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads are part of what makes a float32 sum repeatable; Ray's workers have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_batches(run):
    """Configuration, with batches small enough for many shards, and model file of a run."""
    evaluation = run.config.evaluation.model_copy(update={"batch_size": 4})
    return run.config.model_copy(update={"evaluation": evaluation}), run.directory.model_file("last")


@pytest.fixture
def model(finished_run):
    return small_batches(finished_run)


@pytest.fixture(scope="module")
def expected(finished_run):
    """Features extracted by one process."""
    run = load_run(finished_run.path)
    run.__dict__["config"] = small_batches(run)[0]
    return run.embed_table(run.dataset.table)


@pytest.fixture(scope="module")
def made(local_ray, finished_run, tmp_path_factory):
    """A finished folder of the run's whole table."""
    folder = tmp_path_factory.mktemp("made") / "features"
    stream_features(*small_batches(finished_run), finished_run.dataset.table, finished_run.dataset.images, folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the folder that a test may modify."""
    return shutil.copytree(made, tmp_path / "copied")


def shards(folder):
    return sorted(folder.glob("rows-*.parquet"))


def leftovers(folder):
    return [file for file in folder.iterdir() if file.name.startswith(".")]


def assert_features(folder, expected, table):
    features = read_features(folder)
    assert features.shape == expected.shape
    np.testing.assert_array_equal(features[: len(features)], expected)
    assert len(shards(folder)) == len(expected) // 4
    found = pq.read_table(folder).sort_by("row")
    assert found["row"].to_pylist() == list(range(len(expected)))
    assert found.select(table.arrow.column_names).equals(table.arrow)
    np.testing.assert_array_equal(np.stack(found["feature"].to_numpy()), expected)


def test_features_equal_those_of_one_process_bit_for_bit(made, finished_run, model, expected, tmp_path):
    dataset, out, seen = finished_run.dataset, tmp_path / "features", []
    assert_features(made, expected, dataset.table)  # by one extractor
    done = stream_features(*model, dataset.table, dataset.images, out, n_extractors=2, on_images=seen.append)
    assert_features(out, expected, dataset.table)
    assert sum(seen) == done.n_images == len(expected)
    assert 1 <= len(done.rates) <= 2
    assert all(rate > 0 for rate in done.rates)


def test_only_the_missing_shard_is_written_again(finished_run, model, expected, copied):
    dataset, lost, seen = finished_run.dataset, shards(copied)[3], []
    lost.unlink()
    (copied / f".{lost.name}.123.tmp").write_bytes(b"half")  # what a writer that was killed leaves
    with pytest.raises(DataError, match="lacks 1 of 18 shards"):
        read_features(copied)
    times = {file.name: file.stat().st_mtime_ns for file in shards(copied)}
    done = stream_features(*model, dataset.table, dataset.images, copied, n_extractors=2, on_images=seen.append)
    assert (done.n_images, done.n_before) == (4, len(expected) - 4)
    assert seen == [len(expected) - 4, 4]
    assert {name: (copied / name).stat().st_mtime_ns for name in times} == times
    np.testing.assert_array_equal(read_features(copied)[:], expected)
    assert not leftovers(copied)


def test_finished_folder_returns_at_once(finished_run, model, made, monkeypatch):
    dataset = finished_run.dataset
    monkeypatch.setattr(ray, "is_initialized", None)  # Ray is not asked
    done = stream_features(*model, dataset.table, dataset.images, made)
    assert (done.n_images, done.n_before, done.rates) == (0, len(dataset.table), ())


def slow(images):
    """A slow reader, so that there is time to kill a process. The class is local, so Ray pickles it by value."""

    class SlowImages:
        def read(self, path):
            time.sleep(0.05)
            return images.read(path)

    return SlowImages()


def extractor_processes(home):
    """Process ids of the extractors of the Ray cluster with this home directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"HOME={home}\0".encode() in (entry / "environ").read_bytes():
                title = (entry / "cmdline").read_bytes()
                if title.startswith(b"ray::") and b"ShardEmbedder" in title:
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_killed_extractor_is_replaced(local_ray, finished_run, model, expected, tmp_path, ray_folder):
    dataset, out, killed = finished_run.dataset, tmp_path / "features", []

    def kill_after_a_shard(n):
        if n and not killed:
            killed.extend(extractor_processes(ray_folder))
            for process in killed:
                os.kill(process, signal.SIGKILL)

    done = stream_features(
        *model, dataset.table, slow(dataset.images), out, n_extractors=2, on_images=kill_after_a_shard
    )
    assert killed
    assert done.n_images == len(expected)
    np.testing.assert_array_equal(read_features(out)[:], expected)
    assert not leftovers(out)


def test_folder_of_another_model_or_table_is_refused(finished_run, model, tmp_path):
    config, file = model
    dataset, out = finished_run.dataset, tmp_path / "features"
    manifest = Manifest.of(config, file, dataset.table)
    FeatureFolder.begin(out, manifest, dataset.table)
    before = sorted(out.iterdir())

    other = tmp_path / "other.pt"
    other.write_bytes(b"other weights")
    larger = config.model_copy(update={"data": config.data.model_copy(update={"height": 64})})
    bigger = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"batch_size": 8})})
    precise = config.model_copy(update={"training": config.training.model_copy(update={"precision": "float64"})})
    for changed, words in (
        ((config, other, dataset.table), "holds features of another model; choose another --out"),
        ((config, file, dataset.query), "of other images"),
        ((config, file, dataset.table.without_cameras()), "of other images"),
        ((larger, file, dataset.table), "of images at 32×16"),
        ((bigger, file, dataset.table), "in batches of 4"),
        ((precise, file, dataset.table), "computed in bf16"),
    ):
        with pytest.raises(DataError, match=words):
            stream_features(*changed, dataset.images, out)
    assert sorted(out.iterdir()) == before

    crops = tmp_path / "crops"
    crops.mkdir()
    (crops / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="is not a folder of features"):
        stream_features(config, file, dataset.table, dataset.images, crops)
    with pytest.raises(RunError, match="Cannot read the model"):
        stream_features(config, tmp_path / "none.pt", dataset.table, dataset.images, out)


def test_folder_without_a_manifest_is_started_again(finished_run, model, tmp_path):
    out = tmp_path / "features"
    out.mkdir()
    (out / "_rows.parquet").write_bytes(b"half")
    (out / "._rows.parquet.77.tmp").write_bytes(b"half")
    folder = FeatureFolder.begin(out, Manifest.of(*model, finished_run.dataset.table), finished_run.dataset.table)
    assert folder.rows(0)["path"].to_pylist() == finished_run.dataset.table.paths[:4]


def test_unreadable_image_is_a_one_line_error(local_ray, model, tmp_path, capfd):
    files = []
    for i in range(12):
        files.append(str(tmp_path / f"{i}.jpg"))
        write_jpeg(torch.randint(0, 256, (3, 32, 16), dtype=torch.uint8), files[-1])
    (tmp_path / "9.jpg").write_bytes(b"this is no image")
    table, out = ImageTable.from_columns(path=files), tmp_path / "features"
    with pytest.raises(DataError, match=r"^Cannot decode the image .*9\.jpg: .* lists every such file\.$"):
        stream_features(*model, table, FileImages(), out)
    assert not leftovers(out)
    assert len(shards(out)) <= 2  # those before it, whole
    assert "Traceback" not in "".join(capfd.readouterr())
    write_jpeg(torch.randint(0, 256, (3, 32, 16), dtype=torch.uint8), files[9])
    stream_features(*model, table, FileImages(), out)
    assert read_features(out).shape == (12, WIDTH)


def test_user_error_of_an_extractor_is_a_one_line_message(local_ray, finished_run, model, tmp_path):
    dataset, other = finished_run.dataset, tmp_path / "other.pt"
    torch.save({"model": {}}, other)
    config = model[0]
    with pytest.raises(WeightsError, match=r"Cannot read the model .*other\.pt"):
        stream_features(config, other, dataset.table, dataset.images, tmp_path / "features")


def test_cluster_that_is_too_small_is_refused(local_ray, finished_run, model, tmp_path):
    dataset = finished_run.dataset
    with pytest.raises(ConfigError, match=r"4 extractors with 1 CPUs each.* 5 CPUs.* has 4"):
        stream_features(*model, dataset.table, dataset.images, tmp_path / "features", n_extractors=4)


@pytest.mark.parametrize(
    ("n_extractors", "n_gpus", "share"), [(3, 0, 0), (1, 1, 1), (2, 8, 1), (2, 1, 1 / 2), (3, 2, 1 / 2), (9, 4, 1 / 3)]
)
def test_extractors_share_gpus_so_that_all_fit(n_extractors, n_gpus, share):
    assert gpu_share(n_extractors, n_gpus) == pytest.approx(share)


def test_rows_are_read_like_those_of_an_array(made, copied, expected):
    features = FolderFeatures(made)
    for rows in (slice(0, 3), slice(3, 9), slice(70, 100), slice(-5, None), slice(9, 9), slice(None)):
        np.testing.assert_array_equal(features[rows], expected[rows])
        assert features[rows].shape == expected[rows].shape
    with pytest.raises(IndexError):
        features[::2]
    flat = features.flat()
    np.testing.assert_array_equal(flat, expected)
    assert not flat.flags.writeable
    assert not leftovers(made)
    shards(copied)[2].write_bytes(b"half a shard")
    with pytest.raises(DataError, match=r"000000008.*remove it"):
        read_features(copied)[:]


def command(*arguments):
    """`reid-ray` in this process, which is connected to Ray."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command_line_extracts_into_a_folder_and_labels_it(local_ray, finished_run, tmp_path, monkeypatch):
    out = tmp_path / "features"
    first = command("extract", finished_run.path, "--out", out, "--split", "train", "--extractors", 1)
    n = len(finished_run.dataset.train)
    assert f"Features of {n} images: {out}" in first
    assert "images/s of each extractor" in first
    again = command("extract", finished_run.path, "--out", f"{out}/", "--split", "train")
    assert f"Features of {n} images, {n} of them extracted earlier" in again
    settings = ("labels.k1=6", "labels.k2=2", "labels.eps=0.7", "labels.min_samples=2")
    command("extract", finished_run.path, "--out", tmp_path / "f.npy", "--split", "train")
    for features in (out, tmp_path / "f.npy"):
        command("label", features, "--out", tmp_path / f"{features.stem}.labels.parquet", *settings)
    labels = [pq.read_table(tmp_path / f"{name}.labels.parquet") for name in ("features", "f")]
    assert labels[0].equals(labels[1])
