"""The loop's own rules: the rate's schedule, degenerate labels, supervised mode, what a run leaves behind."""

import numpy as np
import pytest
import torch

from reid_ray.api import train
from reid_ray.config import TrainingConfig
from reid_ray.errors import DegenerateLabelsError, RunError
from reid_ray.run import load_run
from reid_ray.training.optimizers import learning_rate
from reid_ray.training.rundir import RunDirectory


def test_the_rate_warms_up_by_epoch_and_stays():
    training = TrainingConfig(lr=1.0, warmup_epochs=10, warmup_factor=0.1)
    assert [round(learning_rate(training, epoch), 6) for epoch in (0, 1, 5, 9, 10, 39)] == [
        0.1,
        0.19,
        0.55,
        0.91,
        1.0,
        1.0,
    ]
    assert learning_rate(TrainingConfig(lr=1.0, warmup_epochs=0), 0) == 1.0


def test_the_rate_falls_at_each_step():
    training = TrainingConfig(lr=1.0, warmup_epochs=2, warmup_factor=0.5, lr_steps=(1, 4), lr_gamma=0.1)
    rates = [learning_rate(training, epoch) for epoch in range(6)]
    assert rates == pytest.approx([0.5, 0.075, 0.1, 0.1, 0.01, 0.01])


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
    assert features.shape == (2, 512)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


def test_a_run_that_is_never_evaluated_reads_the_training_images_only(tiny, monkeypatch):
    from reid_ray.training import services

    real, banks = services.extract, set()

    def extract(model, bank, batches, **options):
        banks.add(len(bank))
        return real(model, bank, batches, **options)

    monkeypatch.setattr(services, "extract", extract)
    never = ("evaluation.every=null", "evaluation.at_start=true", "evaluation.overlap=true")
    run = train(tiny("data.holdout=0.3", "training.iterations=1", *never))
    assert banks == {len(run.dataset.train)}
    assert run.finished
    assert not run.metrics("evaluate")
    assert run.dataset.query.pids.max() < run.config.data.synthetic.n_train_ids


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
        train(tiny("labels.min_samples=50"))


def test_later_degenerate_labels_keep_the_labels_before_and_end_after_a_while(tiny, monkeypatch):
    from dataclasses import replace

    from reid_ray.training import services

    real = services.label

    def failing_later(features, table, config, device, **options):
        labels = real(features, table, config, device, **options)
        if features.version == 0:
            return labels
        nothing = np.full_like(labels.labels, -1)
        return replace(
            labels, labels=nothing, centroids=labels.centroids[:0], statistics={**labels.statistics, "n_clusters": 0}
        )

    monkeypatch.setattr(services, "label", failing_later)
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
    assert not all(np.isfinite(value) for value in seen["parts"].values())
    assert seen["views"]["weak"].shape == (16, 3, 32, 16)
    assert len(seen["rows"]) == len(seen["labels"]) == 16
    assert seen["networks"].keys() == {"student", "teacher"}


def test_fewer_clusters_than_p_still_train(tiny):
    run = train(tiny("method.mode=supervised", "data.synthetic.n_train_ids=2", "training.epochs=1"))
    assert run.metrics("refresh")[0]["n_clusters"] == 2
    assert run.finished


def test_labels_do_not_read_identities(tiny):
    """Pids serve the log only: without them labels and weights are the same."""
    from dataclasses import replace

    from reid_ray.data.readers import read_dataset
    from reid_ray.training.inline import train_inline

    run = train(tiny("name=with"))
    config = tiny("name=without")
    dataset = read_dataset(config.data)
    train_inline(config, replace(dataset, table=dataset.table.without_pids()))
    blind = load_run(f"{config.output}/without")
    for epoch in (0, 1):
        assert blind.labels(epoch)["label"].equals(run.labels(epoch)["label"])
    first, second = (torch.load(r.directory.model_file("last"), weights_only=True)["model"] for r in (run, blind))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "ari" not in blind.metrics("refresh")[0]
    assert not blind.metrics("evaluate")
