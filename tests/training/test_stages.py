"""Domain adaptation: a source run first, its model as the start, and nothing of it done twice."""

import pytest
import torch
from small_runs import METHOD_RUNS, assert_bit_equal, newest_state

from reid_ray.api import train
from reid_ray.errors import DataError, WeightsError
from reid_ray.methods import build_method
from reid_ray.methods.spcl import SpCL
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.stages import source_runs, started_from
from reid_ray.training.world import World

SHORT = ("training.epochs=1", "training.iterations=2")
SOURCE = (
    "source={layout: synthetic, synthetic: {seed: 3, n_train_ids: 5, n_cameras: 2, images_per_id: 5}}",
    "pretraining={epochs: 1, iterations: 2, n_pids: 4, n_instances: 4, precision: float32}",
)


def test_a_source_run_has_the_network_the_data_and_the_numbers_of_its_stage(tiny):
    config = tiny("name=uda", *METHOD_RUNS["abmt"], *SOURCE, "labels.staleness=1", "evaluation.at_start=true")
    (run,) = source_runs(config)
    assert (run.name, run.method.name, run.source, run.pretraining) == ("uda-source", "source", None, None)
    assert run.model == config.model
    assert run.target == config.data
    assert (run.data.synthetic.seed, run.data.height, run.data.width) == (3, config.data.height, config.data.width)
    assert (run.training.epochs, run.training.precision) == (1, config.training.precision)
    assert source_runs(tiny()) == []


def test_training_begins_from_the_model_of_the_source_run(tiny):
    options = ("name=uda", *METHOD_RUNS["abmt"], *SHORT, "labels.source_weight=0.1")
    run = train(tiny(*options, *SOURCE))
    config = tiny(*options, *SOURCE)
    (earlier,) = source_runs(config)
    pretrained = torch.load(RunDirectory.of(earlier).model_file("last"), weights_only=True)["model"]
    method = build_method(started_from(config, [earlier]), World())
    for name in ("student", "teacher"):
        assert_bit_equal(getattr(method, name).state_dict(), pretrained)
    assert run.metrics("refresh")[0]["source_seconds"] > 0
    before = RunDirectory.of(earlier).metrics_file.read_bytes()
    assert train(tiny(*options, *SOURCE)).finished
    assert RunDirectory.of(earlier).metrics_file.read_bytes() == before
    # The model of a run in place of the stage; another network does not fit.
    weights = f"model.weights={RunDirectory.of(earlier).model_file('last')}"
    assert source_runs(tiny(*options, *SOURCE, weights)) == []
    again = train(tiny(*options, *SOURCE, weights, "name=again"))
    assert_bit_equal(newest_state(run.directory), newest_state(again.directory))
    with pytest.raises(WeightsError, match=r"model-last\.pt do not fit the network"):
        train(tiny(*options, *SOURCE, weights, "name=plain", "model.branches=[]"))


def test_mmt_begins_from_two_source_runs_of_different_seeds(tiny):
    config = tiny("name=uda", *METHOD_RUNS["mmt"], *SHORT, *SOURCE)
    first, second = source_runs(config)
    assert (second.name, second.seed) == ("uda-source-2", first.seed + 1)
    run = train(config)
    members = build_method(started_from(config, [first, second]), World()).student.members
    for member, source in zip(members, (first, second), strict=True):
        model = torch.load(RunDirectory.of(source).model_file("last"), weights_only=True)["model"]
        assert_bit_equal(member.state_dict(), model)
    assert run.finished


def test_a_method_that_learns_from_the_source_has_no_stage_before(tiny, monkeypatch):
    config = tiny("name=joint", *METHOD_RUNS["spcl-joint"], *SHORT)
    assert source_runs(config) == []
    learned, updates = set(), SpCL.updates

    def spy(method, batch):
        learned.update(batch.other.labels.tolist())
        return updates(method, batch)

    monkeypatch.setattr(SpCL, "updates", spy)
    run = train(config)
    assert learned == set(range(5))
    assert set(run.metrics("step")[0]["parts"]) == {"source", "target"}
    assert not (run.path.parent / "joint-source").exists()


def test_images_of_the_target_move_nothing_but_bn_statistics(tiny):
    """Its labels are never seen, and no gradient comes from it."""
    options = ("method={name: source}", "training.precision=float64", *SHORT, "training.iterations=1")
    alone = newest_state(train(tiny("name=alone", *options)).directory)["networks"]["student"]
    target = "target={layout: synthetic, synthetic: {seed: 7, n_train_ids: 4}}"
    beside = newest_state(train(tiny("name=beside", *options, target)).directory)["networks"]["student"]
    different = {key.rpartition(".")[2] for key in alone if not torch.equal(alone[key], beside[key])}
    assert different == {"running_mean", "running_var", "num_batches_tracked"}


def test_a_source_without_identities_is_refused(tiny, tmp_path):
    (tmp_path / "crops").mkdir()
    from torchvision.io import write_jpeg

    for i in range(4):
        write_jpeg(torch.zeros(3, 64, 32, dtype=torch.uint8), str(tmp_path / "crops" / f"{i}.jpg"))
    crops = f"source={{layout: folder, root: {tmp_path / 'crops'}}}"
    for method in ("abmt", "spcl-joint"):
        with pytest.raises(DataError, match="no identities in its training split"):
            train(tiny("name=uda", *METHOD_RUNS[method], crops))
