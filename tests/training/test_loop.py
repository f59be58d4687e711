"""The loop's own rules on real runs: degenerate labels, supervised modes, what a run extracts and leaves behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import METHOD_RUNS, SOURCE, WIDTH

from reid_ray.api import train
from reid_ray.data.readers import read_dataset
from reid_ray.errors import DegenerateLabelsError, RunError
from reid_ray.run import load_run
from reid_ray.training import services
from reid_ray.training.inline import train_inline
from reid_ray.training.rundir import RunDirectory


def test_a_run_leaves_what_the_design_promises(tiny):
    run = train(tiny("evaluation.every=1", "evaluation.at_start=true"))
    assert {path.name for path in run.path.iterdir()} >= {"config.yaml", "metrics.jsonl", "labels", "checkpoints"}
    assert load_run(run.path).config == run.config
    assert [event["event"] for event in run.metrics() if event["event"] != "step"] == [
        *("start", "evaluate", "refresh", "epoch", "evaluate", "refresh", "epoch", "evaluate", "end")
    ]
    table = run.labels(0)
    assert table.column_names == ["path", "label", "camid", "pid"]
    assert table.num_rows == len(run.dataset.train)
    refresh = run.metrics("refresh")[0]
    assert refresh["n_clusters"] == len(set(table["label"].to_pylist()) - {-1})
    assert {"ari", "nmi", "pairwise_f1", "extract_seconds", "label_seconds"} <= refresh.keys()
    assert run.finished
    features = run.embed([np.zeros((50, 20, 3), np.uint8), torch.zeros(3, 10, 10, dtype=torch.uint8)])
    assert features.shape == (2, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


@pytest.fixture
def extracted(monkeypatch):
    """Numbers of images of each extraction, as they happen."""
    counts, real = [], services.extract

    def extract(model, load, batches, **options):
        counts.append(sum(map(len, batches)))
        return real(model, load, batches, **options)

    monkeypatch.setattr(services, "extract", extract)
    return counts


def test_a_run_that_is_never_evaluated_reads_the_training_images_only(tiny, extracted):
    never = ("evaluation.every=null", "evaluation.at_start=true", "evaluation.overlap=true")
    run = train(tiny("data.holdout=0.3", "training.iterations=1", *never))
    assert extracted == [len(run.dataset.train)] * 2
    assert run.finished
    assert not run.metrics("evaluate")
    assert run.dataset.query.pids.max() < run.config.data.synthetic.n_train_ids


SUPERVISED = ("method={name: source}", "training.epochs=3", "training.iterations=1")


def test_a_supervised_run_extracts_nothing_before_an_epoch(tiny, extracted):
    """Its labels are known: it takes no pass over the images, and logs one refresh."""
    run = train(tiny(*SUPERVISED, "evaluation.every=null"))
    assert extracted == []
    (refresh,) = run.metrics("refresh")
    assert (refresh["epoch"], refresh["n_clusters"], refresh["degenerate"]) == (0, 8, False)
    assert not {"extract_seconds", "label_seconds", "ari"} & refresh.keys()
    assert [event["epoch"] for event in run.metrics("epoch")] == [0, 1, 2]
    assert [path.name for path in run.directory.labels.iterdir()] == ["epoch-000.parquet"]
    evaluated = train(tiny(*SUPERVISED, "name=evaluated", "evaluation.every=2"))
    dataset = evaluated.dataset
    assert extracted == [len(dataset.query) + len(dataset.gallery)] * 2, "for its evaluations only"


def test_supervised_ice_extracts_the_means_of_its_identities_before_each_epoch(tiny, extracted):
    run = train(tiny("method.mode=supervised", "training.iterations=1", "evaluation.every=null"))
    assert extracted == [len(run.dataset.train)] * 2
    assert [event["epoch"] for event in run.metrics("refresh")] == [0, 1]


def test_a_stage_on_a_source_extracts_nothing(tiny, extracted):
    """A target's clusters take its images, and the source's where they have a part in the distance; memories none."""
    short = ("training.iterations=1", "evaluation.every=null")
    run = train(tiny("name=uda", *METHOD_RUNS["abmt"], *SOURCE, *short))
    assert extracted == [len(run.dataset.train)] * 2
    extracted.clear()
    train(tiny("name=compared", *METHOD_RUNS["abmt"], *SOURCE, *short, "labels.source_weight=0.1"))
    assert extracted == [len(run.dataset.train), 25] * 2
    extracted.clear()
    train(tiny("name=joint", *METHOD_RUNS["spcl-joint"], *short))
    assert extracted == [len(run.dataset.train), 30], "once: later epochs cluster the memory, and identities stay"


def test_the_run_api_embeds_as_the_run_evaluated(tiny):
    from reid_ray.evaluation.protocols import evaluate_table

    run = train(tiny("evaluation.every=1", "training.precision=float32"))
    dataset = run.dataset
    features = [run.embed_table(table) for table in (dataset.query, dataset.gallery)]
    again = evaluate_table(features[0], features[1], dataset.table)
    assert again.mAP == pytest.approx(run.metrics("evaluate")[-1]["mAP"], abs=1e-4)


def test_supervised_mode_trains_on_identities(tiny):
    run = train(tiny("method.mode=supervised", "training.epochs=1"))
    table = run.labels()
    pairs = set(zip(table["pid"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert len(pairs) == run.config.data.synthetic.n_train_ids


def test_the_first_clustering_with_nothing_to_train_on_ends_the_run_with_a_sentence(tiny):
    with pytest.raises(DegenerateLabelsError, match=r"first clustering gave 0 clusters.*labels\.eps"):
        train(tiny("labels.min_samples=48"))


def test_later_degenerate_labels_keep_the_labels_before_and_end_after_a_while(tiny, monkeypatch):
    real = services.label_streams

    def failing_later(request, *arguments, **options):
        found = real(request, *arguments, **options)
        if request.epoch == 0:
            return found
        labels = found["train"]
        nothing = np.full_like(labels.labels, -1)
        statistics = {**labels.statistics, "n_clusters": 0}
        return {"train": replace(labels, labels=nothing, centroids=labels.centroids[:0], statistics=statistics)}

    monkeypatch.setattr(services, "label_streams", failing_later)
    config = tiny("training.epochs=9", "training.iterations=1", "labels.max_degenerate_epochs=3")
    with pytest.raises(DegenerateLabelsError, match="4 epochs in a row"):
        train(config)
    run = load_run(f"{config.output}/{config.name}")
    assert [event["degenerate"] for event in run.metrics("refresh")] == [False, True, True, True, True]
    assert run.labels(1)["label"].equals(run.labels(0)["label"])


def test_a_loss_that_is_not_finite_ends_the_run_and_says_where(tiny):
    config = tiny("training.lr=1e30", "training.precision=float32", "training.warmup_epochs=0")
    with pytest.raises(RunError, match=r"no longer finite at epoch 0, step \d.*diverged-0.pt holds the batch"):
        train(config)
    seen = torch.load(RunDirectory.of(config).diverged_file(0), weights_only=True)
    assert not all(np.isfinite(value) for value in seen["terms"].values())
    stream = seen["streams"]["train"]
    assert stream["views"]["weak"].shape == (16, 3, 32, 16)
    assert len(stream["rows"]) == len(stream["labels"]) == len(stream["columns"]["camid"]) == 16
    assert seen["modules"].keys() == {"student", "teacher", "targets"}


def test_fewer_clusters_than_p_still_train(tiny):
    run = train(tiny("method.mode=supervised", "data.synthetic.n_train_ids=2", "training.epochs=1"))
    assert run.metrics("refresh")[0]["n_clusters"] == 2
    assert run.finished


def test_labels_do_not_read_identities(tiny):
    """Pids serve the log only: without them labels and weights are the same."""
    run = train(tiny("name=with"))
    config = tiny("name=without")
    dataset = read_dataset(config.data)
    train_inline(config, {"data": replace(dataset, table=dataset.table.without_pids())})
    blind = load_run(f"{config.output}/without")
    for epoch in (0, 1):
        assert blind.labels(epoch)["label"].equals(run.labels(epoch)["label"])
    first, second = (torch.load(r.directory.model_file("last"), weights_only=True)["model"] for r in (run, blind))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "ari" not in blind.metrics("refresh")[0]
    assert not blind.metrics("evaluate")
