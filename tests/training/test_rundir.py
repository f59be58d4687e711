"""One directory is one configuration on one set of images; everything else about it may change."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from reid_ray.config import load_config
from reid_ray.data.readers import read_dataset
from reid_ray.data.table import ImageTable
from reid_ray.errors import RunError
from reid_ray.training.checkpoint import Checkpoint, Position
from reid_ray.training.metrics import MetricsLog
from reid_ray.training.rundir import RunDirectory
from reid_ray.types import PseudoLabels


@pytest.fixture
def table(tiny):
    return read_dataset(tiny().data).table


@pytest.fixture
def begun(tiny, table):
    """A directory with a checkpoint."""
    directory = RunDirectory.of(tiny())
    directory.create(tiny(), table)
    Checkpoint(Position(), {}, {}).save(directory.checkpoints, keep=1)
    return directory


def test_where_a_run_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert RunDirectory.of(load_config("demo", ["output=~/runs"])).path == tmp_path / "runs" / "demo"
    assert RunDirectory.of(load_config("demo", ["output=x", "name=y"])).path == Path.cwd() / "x" / "y"


def test_it_is_made_and_made_again(tiny, table):
    directory = RunDirectory.of(tiny())
    directory.check(tiny())
    assert not directory.path.exists()
    directory.create(tiny(), table)
    (directory.checkpoints / ".step.pt.17.tmp").write_bytes(b"half")
    directory.create(tiny(), table)
    assert not list(directory.path.rglob("*.tmp"))
    assert load_config(directory.config_file) == tiny()
    assert ImageTable.read(directory.images_file).arrow.equals(table.arrow)


def test_without_a_checkpoint_another_configuration_may_begin(tiny, table):
    directory = RunDirectory.of(tiny())
    directory.create(tiny(), table)
    assert not directory.begun
    directory.create(tiny("seed=1"), table)
    assert load_config(directory.config_file).seed == 1


def test_with_a_checkpoint_it_may_not(tiny, table, begun):
    assert begun.begun
    for refused in (begun.check, lambda config: begun.create(config, table)):
        with pytest.raises(RunError, match=r"labels\.eps was 0\.7 and is 0\.6; seed was 0 and is 1\)") as caught:
            refused(tiny("seed=1", "labels.eps=0.6"))
        assert "name=" in str(caught.value)
    assert load_config(begun.config_file) == tiny()


def test_what_does_not_change_the_result_may_change(tiny, table, begun):
    begun.create(tiny("training.epochs=9", "runtime.n_workers=2", "data.cache_mb=0", "evaluation.every=3"), table)
    assert load_config(begun.config_file).training.epochs == 9


def test_other_images_are_refused(tiny, table, begun):
    with pytest.raises(RunError, match="other images"):
        begun.create(tiny(), table.without_cameras())


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


def test_a_run_is_complete_after_as_many_epochs_as_are_configured(tiny, table):
    directory = RunDirectory.of(tiny())
    directory.create(tiny(), table)
    assert not directory.is_complete(tiny())
    MetricsLog(directory.metrics_file).write("end", epochs=2)
    assert directory.is_complete(tiny("training.epochs=1"))
    assert directory.is_complete(tiny("training.epochs=2"))
    assert not directory.is_complete(tiny("training.epochs=3"))


@pytest.mark.parametrize("known", [True, False])
def test_labels_are_written_with_what_is_known_of_the_images(tiny, table, known):
    directory = RunDirectory.of(tiny())
    directory.create(tiny(), table)
    train = table.split("train") if known else table.split("train").without_pids()
    labels = PseudoLabels(7, train.camids % 2, *[train.camids] * 4)
    directory.write_labels(labels, train)
    written = pq.read_table(directory.labels / "epoch-007.parquet")
    assert written.column_names == ["path", "label", "camid", *(["pid"] if known else [])]
    assert written["path"].to_pylist() == train.paths
    assert written["label"].to_pylist() == labels.labels.tolist()
