"""Features that a stage trains on: extracted once, whatever is killed, and read from the run directory."""

import numpy as np
import pytest
from small_runs import on_workers
from torch import nn

from reid_ray.config import TrainingConfig
from reid_ray.errors import RunError
from reid_ray.inference.retriever import Retriever
from reid_ray.methods import FeatureCache, Stage, StreamSpec
from reid_ray.training import feature_cache as features
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.feature_cache import stage_features, write_features
from reid_ray.training.rundir import RunDirectory

VALUES = np.random.default_rng(0).normal(size=(3 * 7, 5)).astype(np.float32)
CACHE = FeatureCache("encoder", copies=3)
STREAMS = {"train": StreamSpec({"code": "feature"}, cache=CACHE), "images": StreamSpec({"image": "resize"})}
STAGE = Stage("refine", TrainingConfig(), STREAMS, {}, "head")


class Extracting:
    """Services that give the copies, and count how often they are asked."""

    def __init__(self):
        self.asked = []

    def extract_copies(self, retriever, cache, section):
        self.asked.append((retriever.module, cache, section))
        return VALUES


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path / "run")


def features_of(directory, services, context=None):
    def retriever_of(module):
        return Retriever(module, nn.Linear(2, 5), (0, 0))

    return stage_features(STAGE, directory, retriever_of, services, context or DistributedContext())


@pytest.mark.parametrize("rows_at_once", [1, 4, 1000])
def test_features_are_written_copy_after_copy(tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr(features, "ROWS_AT_ONCE", rows_at_once)
    file = tmp_path / "features" / "main-train.npy"
    write_features(file, VALUES, 3)
    found = np.load(file)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES.reshape(3, 7, 5))
    assert [path.name for path in file.parent.iterdir()] == ["main-train.npy"]


def test_they_are_extracted_once_and_mapped_into_memory(directory):
    """Those of the streams that have a cache."""
    services = Extracting()
    for _ in range(2):
        found = features_of(directory, services)
        assert list(found) == ["train"]
        np.testing.assert_array_equal(found["train"], VALUES.reshape(3, 7, 5))
        assert isinstance(found["train"], np.memmap)
        assert not found["train"].flags.writeable
    assert services.asked == [("encoder", CACHE, "data")]
    assert directory.features_file("refine", "train").exists()


def test_all_workers_extract_together_and_read_what_rank_0_wrote(directory):
    services = Extracting()
    for _ in range(2):
        for found in on_workers(2, lambda context: features_of(directory, services, context)):
            np.testing.assert_array_equal(found["train"], VALUES.reshape(3, 7, 5))
    assert len(services.asked) == 2, "once on each worker"


def test_a_killed_process_leaves_no_half_file(directory):
    """The next one extracts again."""

    class Dying:
        shape = (21, 5)

        def __getitem__(self, rows):
            raise KeyboardInterrupt

    file = directory.features_file("refine", "train")
    with pytest.raises(KeyboardInterrupt):
        write_features(file, Dying(), 3)
    assert list(file.parent.iterdir()) == []
    services = Extracting()
    features_of(directory, services)
    assert len(services.asked) == 1


def test_storage_that_gives_out_is_every_worker_s_error(directory):
    directory.path.mkdir()
    (directory.path / "features").write_text("a file where the folder should be")
    answers = on_workers(2, lambda context: features_of(directory, Extracting(), context))
    assert [type(answer) for answer in answers] == [RunError, RunError]
