"""Domain adaptation: stages on a source in one run, the same stages as runs of their own, and nothing done twice."""

from pathlib import Path

import pytest
import torch
from small_runs import METHOD_RUNS, SOURCE, assert_bit_equal, newest_state, steps_logged

from reid_ray.api import train
from reid_ray.config import StageConfig, with_absolute_paths
from reid_ray.errors import RunError, WeightsError
from reid_ray.methods import build_method, stages_of
from reid_ray.methods.spcl import SpCL
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.source_runs import source_runs, started_from, with_models_of_runs

SHORT = ("training.epochs=1", "training.iterations=2", "training.precision=float32")


def exported(config, which="last"):
    return torch.load(RunDirectory.of(config).model_file(which), weights_only=True)


def test_a_source_run_has_the_network_the_data_and_the_numbers_of_its_stage(tiny):
    config = tiny("name=uda", *METHOD_RUNS["abmt"], *SOURCE, "labels.staleness=1", "evaluation.at_start=true")
    (run,) = source_runs(config)
    assert (run.name, run.method.name, run.source, run.stages) == ("uda-source", "source", None, {})
    assert run.model == config.model
    assert run.target == config.data
    assert (run.data.synthetic.seed, run.data.height, run.data.width) == (3, config.data.height, config.data.width)
    assert (run.training.epochs, run.training.precision) == (1, config.training.precision)
    assert (run.evaluation.at_start, run.labels.staleness, run.seed) == (False, 0, config.seed)
    assert run.training.model_dump(include=set(StageConfig.model_fields)) == stages_of(config)[0].config.model_dump()
    assert source_runs(tiny()) == []
    assert source_runs(tiny(SOURCE[0], "source_stage=false")) == []


def test_a_source_run_is_evaluated_once_at_its_end_or_never(tiny):
    for every, expected in (("1", 0), ("0", 0), ("null", None)):
        (run,) = source_runs(tiny(*SOURCE, f"evaluation.every={every}"))
        assert run.evaluation.every == expected


@pytest.mark.parametrize("method", ["abmt", "mmt"])
def test_a_run_with_source_stages_is_what_runs_of_their_own_compute(tiny, method):
    """Bit for bit: the models of the stages, the labels, and the weights at the end."""
    more = ("stages.source_2={epochs: 1, iterations: 2}",) if method == "mmt" else ()
    config = tiny("name=uda", *METHOD_RUNS[method], *SHORT, *SOURCE, *more, "labels.source_weight=0.1")
    whole = train(config)
    earlier = source_runs(config)
    assert [run.name for run in earlier] == ["uda-source", "uda-source_2"][: len(earlier)]
    assert [run.seed for run in earlier] == [0, 1][: len(earlier)]
    for run, stage in zip(earlier, stages_of(config), strict=False):
        train(run)
        assert_bit_equal(exported(config, stage.name)["model"], exported(run)["model"])
    apart = train(started_from(config, earlier).model_copy(update={"name": "apart"}))
    found, expected = newest_state(whole.directory), newest_state(apart.directory)
    classifiers = {f"{stage.name}_classifiers" for stage in stages_of(config)[:-1]}
    assert found["modules"].keys() - expected["modules"].keys() == classifiers
    assert_bit_equal({name: found["modules"][name] for name in expected["modules"]}, expected["modules"])
    assert_bit_equal(found["optimizers"], expected["optimizers"])
    assert whole.labels().equals(apart.labels())
    assert steps_logged(apart.directory) == [1, 2]
    assert whole.metrics("refresh")[-1]["source_seconds"] > 0
    assert apart.metrics("refresh")[0]["source_seconds"] > 0


def test_the_main_stage_begins_from_the_model_of_the_source_stage(tiny):
    """Student and teacher, to the last BN statistic, and with optimizers that have done nothing."""
    config = tiny("name=uda", *METHOD_RUNS["abmt"], *SHORT, *SOURCE)

    class StopError(Exception):
        pass

    def stop(event):
        if event["event"] == "start" and event["stage"] == "main":
            raise StopError

    with pytest.raises(StopError):
        train(config, listener=stop)
    state, model = newest_state(RunDirectory.of(config)), exported(config, "source")
    assert (model["module"], model["stage"], model["epoch"]) == ("student", "source", 1)
    for name in ("student", "teacher"):
        assert_bit_equal(state["modules"][name], model["model"])
    assert (state["state"]["stage"], state["state"]["epoch"], state["state"]["stage_step"]) == (1, 0, 0)
    assert state["state"]["global_step"] == 2
    assert state["optimizers"]["main"]["state"] == {}


def test_stages_are_events_of_one_run(tiny):
    run = train(tiny("name=uda", *METHOD_RUNS["mmt-uda"], *SHORT, "evaluation.every=1", "evaluation.at_start=true"))
    told = [(event["stage"], event["event"]) for event in run.metrics() if event["event"] != "step"]
    first = [(stage, kind) for stage in ("source", "source_2") for kind in ("start", "refresh", "epoch")]
    assert told == [*first, *(("main", kind) for kind in ("start", "evaluate", "refresh", "epoch", "evaluate", "end"))]
    starts = run.metrics("start")
    assert [event["n_images"] for event in starts] == [25, 25, len(run.dataset.train)]
    assert [event["global_step"] for event in starts] == [0, 2, 4]
    assert [event["epochs"] for event in starts] == [1, 1, 1]
    assert steps_logged(run.directory) == [1, 2, 3, 4, 5, 6]
    assert [event["epoch"] for event in run.metrics("step")] == [0] * 6
    assert {path.name for path in run.directory.labels.iterdir()} == {
        "source-epoch-000.parquet",
        "source_2-epoch-000.parquet",
        "epoch-000.parquet",
    }
    models = {path.name for path in run.directory.checkpoints.glob("model-*.pt")}
    assert models == {"model-source.pt", "model-source_2.pt", "model-last.pt", "model-best.pt"}
    best = exported(run.config, "best")
    assert (best["stage"], best["module"]) == ("main", "teacher")


def test_the_run_again_does_nothing_and_more_epochs_train_the_main_stage_only(tiny):
    options = ("name=uda", *METHOD_RUNS["abmt"], *SHORT, *SOURCE)
    run = train(tiny(*options))
    before = run.directory.metrics_file.read_bytes()
    assert train(tiny(*options)).finished
    assert run.directory.metrics_file.read_bytes() == before
    longer = train(tiny(*options, "training.epochs=2"))
    assert [(event["stage"], event["epoch"]) for event in longer.metrics("epoch")] == [
        ("source", 0),
        ("main", 0),
        ("main", 1),
    ]
    assert steps_logged(longer.directory) == [1, 2, 3, 4, 5, 6]


def test_the_model_of_a_run_in_place_of_the_stage(tiny):
    options = ("name=uda", *METHOD_RUNS["abmt"], *SHORT, *SOURCE)
    run = train(tiny(*options))
    weights = f"model.weights={run.directory.model_file('source')}"
    again = train(tiny(*options, weights, "name=again"))
    assert again.config.source_stage is False, "the run says what it did"
    assert [event["stage"] for event in again.metrics("start")] == ["main"]
    assert_bit_equal(
        {name: newest_state(run.directory)["modules"][name] for name in ("student", "teacher")},
        {name: newest_state(again.directory)["modules"][name] for name in ("student", "teacher")},
    )
    with pytest.raises(WeightsError, match=r"model-source\.pt do not fit the network"):
        train(tiny(*options, weights, "name=plain", "model.branches=[]"))


def test_mmt_begins_from_the_models_of_two_source_runs_of_different_seeds(tiny):
    config = tiny("name=uda", *METHOD_RUNS["mmt"], *SHORT, *SOURCE)
    first, second = source_runs(config)
    assert (second.name, second.seed) == ("uda-source_2", first.seed + 1)
    for run in (first, second):
        train(run)
    begun = started_from(config, [first, second])
    assert begun.model.weights == tuple(str(RunDirectory.of(run).model_file("last")) for run in (first, second))
    members = build_method(begun, DistributedContext()).modules["student"].members
    for member, source in zip(members, (first, second), strict=True):
        assert_bit_equal(member.state_dict(), exported(source)["model"])


def test_a_run_without_source_runs_is_started_as_it_is(tiny):
    assert started_from(tiny(), []) == tiny()


def test_a_method_that_learns_from_the_source_has_no_stage_before(tiny, monkeypatch):
    config = tiny("name=joint", *METHOD_RUNS["spcl-joint"], *SHORT)
    assert source_runs(config) == []
    learned, updates = set(), SpCL.updates

    def spy(method, stage, batch):
        learned.update(batch["source"].labels.tolist())
        return updates(method, stage, batch)

    monkeypatch.setattr(SpCL, "updates", spy)
    run = train(config)
    assert learned == set(range(5))
    assert set(run.metrics("step")[0]["terms"]) == {"source", "target"}
    assert [event["stage"] for event in run.metrics("start")] == ["main"]
    assert not (run.path.parent / "joint-source").exists()


def test_images_of_the_target_move_nothing_but_bn_statistics(tiny):
    """Its labels are never seen, and no gradient comes from it."""
    options = ("method={name: source}", *SHORT, "training.precision=float64", "training.iterations=1")
    alone = newest_state(train(tiny("name=alone", *options)).directory)["modules"]["student"]
    target = "target={layout: synthetic, synthetic: {seed: 7, n_train_ids: 4}}"
    beside = newest_state(train(tiny("name=beside", *options, target)).directory)["modules"]["student"]
    different = {key.rpartition(".")[2] for key in alone if not torch.equal(alone[key], beside[key])}
    assert different == {"running_mean", "running_var", "num_batches_tracked"}


def test_the_model_of_a_run_by_its_folder(tiny, tmp_path):
    """`run:PATH` is the last model that the run has exported."""
    run = tiny("name=first")
    file = RunDirectory.of(run).model_file("last")
    named = tiny("name=second", f"model.weights=run:{RunDirectory.of(run).path}")
    with pytest.raises(RunError, match=r"is not a run directory; it has no config.yaml"):
        with_models_of_runs(named)
    RunDirectory.of(run).create(run, {})
    with pytest.raises(RunError, match="this run has no model yet"):
        with_models_of_runs(named)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"")
    assert with_models_of_runs(named).model.weights == str(file)
    both = named.model_copy(update={"model": named.model.model_copy(update={"weights": (named.model.weights, None)})})
    assert with_models_of_runs(both).model.weights == (str(file), None)
    assert with_models_of_runs(run) == run
    relative = tiny("model.weights=run:runs/first")
    assert with_absolute_paths(relative).model.weights == f"run:{Path('runs/first').absolute()}"


def test_havana_takes_the_extractor_of_a_run(tiny):
    """Though its recipe has settings of the stage that trains one."""
    extractor = train(tiny("name=extractor", "training.epochs=1", "training.iterations=1"))
    options = (*METHOD_RUNS["havana"], "training.epochs=1", "training.iterations=1")
    run = train(tiny("name=on-it", *options, f"model.weights=run:{extractor.path}"))
    assert [stage.name for stage in stages_of(run.config)] == ["vnae"]
    expected = extractor.model.state_dict()
    found = run.model.get_submodule("extractor.embedder").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
