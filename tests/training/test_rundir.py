"""One directory is one configuration on one set of images; everything else about it may change."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from reid_ray.config import load_config
from reid_ray.data.readers import read_dataset
from reid_ray.data.table import ImageTable
from reid_ray.errors import RunError
from reid_ray.run import load_run
from reid_ray.training.checkpoint import FORMAT, Checkpoint, TrainState
from reid_ray.training.metrics import MetricsLog
from reid_ray.training.rundir import RunDirectory
from reid_ray.types import Labels


@pytest.fixture
def datasets(tiny):
    return {"data": read_dataset(tiny().data)}


@pytest.fixture
def table(datasets):
    return datasets["data"].table


@pytest.fixture
def begun(tiny, datasets):
    """A directory with a checkpoint."""
    directory = RunDirectory.of(tiny())
    directory.create(tiny(), datasets)
    Checkpoint(TrainState(), {}, {}).save(directory.checkpoints, keep=1)
    return directory


def test_where_a_run_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert RunDirectory.of(load_config("demo", ["output=~/runs"])).path == tmp_path / "runs" / "demo"
    assert RunDirectory.of(load_config("demo", ["output=x", "name=y"])).path == Path.cwd() / "x" / "y"


def test_it_is_made_and_made_again(tiny, datasets, table):
    directory = RunDirectory.of(tiny())
    directory.check(tiny())
    assert not directory.path.exists()
    directory.create(tiny(), datasets)
    (directory.checkpoints / ".step.pt.17.tmp").write_bytes(b"half")
    directory.create(tiny(), datasets)
    assert not list(directory.path.rglob("*.tmp"))
    assert load_config(directory.config_file) == tiny()
    assert ImageTable.read(directory.images_file).arrow.equals(table.arrow)


def test_without_a_checkpoint_another_configuration_may_begin(tiny, datasets):
    directory = RunDirectory.of(tiny())
    directory.create(tiny(), datasets)
    assert not directory.begun
    directory.create(tiny("seed=1"), datasets)
    assert load_config(directory.config_file).seed == 1


def test_with_a_checkpoint_it_may_not(tiny, datasets, begun):
    assert begun.begun
    for refused in (begun.check, lambda config: begun.create(config, datasets)):
        with pytest.raises(RunError, match=r"labels\.eps was 0\.7 and is 0\.6; seed was 0 and is 1\)") as caught:
            refused(tiny("seed=1", "labels.eps=0.6"))
        assert "name=" in str(caught.value)
    assert load_config(begun.config_file) == tiny()


def test_what_does_not_change_the_result_may_change(tiny, datasets, begun):
    begun.create(tiny("training.epochs=9", "runtime.n_workers=2", "data.cache_mb=0", "evaluation.every=3"), datasets)
    assert load_config(begun.config_file).training.epochs == 9


def test_other_images_are_refused(tiny, datasets, table, begun):
    blind = replace(datasets["data"], table=table.without_cameras())
    with pytest.raises(RunError, match="other images"):
        begun.create(tiny(), {"data": blind})
    begun.create(tiny(), datasets)


def test_every_table_that_a_run_reads_is_written_and_compared(tiny):
    config = tiny("source={layout: synthetic, synthetic: {seed: 3, n_train_ids: 4, n_test_ids: 2}}")
    datasets = {"data": read_dataset(config.data), "source": read_dataset(config.source)}
    directory = RunDirectory.of(config)
    directory.create(config, datasets)
    assert (directory.path / "images.parquet").exists()
    assert (directory.path / "images-source.parquet").exists()
    again = directory.datasets({section: dataset.images for section, dataset in datasets.items()})
    for section, dataset in datasets.items():
        assert again[section].table.arrow.equals(dataset.table.arrow)
        assert again[section].images is dataset.images
    Checkpoint(TrainState(), {}, {}).save(directory.checkpoints, keep=1)
    fewer = replace(datasets["source"], table=datasets["source"].table.split("train"))
    with pytest.raises(RunError, match=r"other images: .* has changed"):
        directory.create(config, {**datasets, "source": fewer})


def test_a_directory_of_another_format_is_refused(tiny, datasets, begun):
    """The header says the format; directories of the first one say none."""
    assert begun.config_file.read_text().splitlines()[1] == f"# run directory format: {FORMAT}"
    begun.check_format()
    text = begun.config_file.read_text()
    for found, changed in (
        ("99", text.replace(f"format: {FORMAT}", "format: 99")),
        ("1", text.replace(f"# run directory format: {FORMAT}\n", "")),
    ):
        begun.config_file.write_text(changed)
        sentence = rf"directory of format {found}, and this version of reid_ray reads format {FORMAT}; finish the run"
        for refused in (
            begun.check_format,
            lambda: begun.check(tiny()),
            lambda: begun.create(tiny(), datasets),
            lambda: load_run(begun.path).config,
        ):
            with pytest.raises(RunError, match=sentence):
                refused()
    assert begun.config_file.read_text() == changed


def test_a_directory_without_a_checkpoint_is_written_in_this_format(tiny, datasets):
    directory = RunDirectory.of(tiny())
    directory.check_format()  # there is none yet
    directory.create(tiny(), datasets)
    directory.config_file.write_text("# of long ago\nname: demo\n")
    directory.create(tiny(), datasets)
    directory.check_format()


def test_where_features_and_models_of_stages_lie(tiny):
    directory = RunDirectory.of(tiny())
    assert directory.features_file("refine", "train") == directory.path / "features" / "refine-train.npy"
    assert directory.model_file("source") == directory.checkpoints / "model-source.pt"
    assert directory.images_file == directory.images_file_of("data") == directory.path / "images.parquet"


def test_what_is_no_run_directory_is_left_alone(tiny, tmp_path):
    directory = RunDirectory.of(tiny())
    directory.path.mkdir()
    directory.check(tiny())  # empty: nothing to lose
    (directory.path / "thesis.doc").touch()
    with pytest.raises(RunError, match="not a run directory"):
        directory.check(tiny())
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="not a run directory"):
        RunDirectory.of(tiny("name=file")).check(tiny("name=file"))


def test_a_run_is_complete_after_as_many_epochs_as_are_configured(tiny, datasets):
    directory = RunDirectory.of(tiny())
    directory.create(tiny(), datasets)
    assert not directory.is_complete(tiny())
    MetricsLog(directory.metrics_file).write("end", epochs=2)
    assert directory.is_complete(tiny("training.epochs=1"))
    assert directory.is_complete(tiny("training.epochs=2"))
    assert not directory.is_complete(tiny("training.epochs=3"))


@pytest.mark.parametrize("known", [True, False])
def test_labels_are_written_with_what_is_known_of_the_images(tiny, datasets, table, known):
    directory = RunDirectory.of(tiny())
    directory.create(tiny(), datasets)
    train = table.split("train") if known else table.split("train").without_pids()
    labels = Labels(7, train.camids % 2, *[train.camids] * 4)
    directory.write_labels(labels, train)
    written = pq.read_table(directory.labels / "epoch-007.parquet")
    assert written.column_names == ["path", "label", "camid", *(["pid"] if known else [])]
    assert written["path"].to_pylist() == train.paths
    assert written["label"].to_pylist() == labels.labels.tolist()
    directory.write_labels(labels, train, "source")
    assert pq.read_table(directory.labels / "source-epoch-007.parquet").equals(written)
