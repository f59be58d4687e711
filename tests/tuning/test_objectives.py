"""The label-free score of a run: its definition, and that it does not read identities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from small_runs import METHOD_RUNS, SOURCE, tiny_config

from reid_ray.api import train
from reid_ray.data.readers import read_dataset
from reid_ray.labels.camera_cycles import cycle_consistency
from reid_ray.labels.label_free import label_free_scores
from reid_ray.labels.objective import label_free_objective, reference_graphs
from reid_ray.labels.refresh import cluster_rows
from reid_ray.run import Run
from reid_ray.tuning.objectives import label_free_score


def test_score_of_the_labels_of_the_last_model(finished_run: Run) -> None:
    scores = label_free_score(finished_run)
    table = finished_run.dataset.train
    features = finished_run.embed_table(table)
    labels = cluster_rows(features, finished_run.config.labels, table.camids).labels
    references = reference_graphs(features)
    expected = {"label_free": label_free_objective(labels, references, table.tracklets)}
    expected["model_score"] = cycle_consistency(features, table.camids)
    expected |= label_free_scores(labels, references[0], table.camids)
    assert expected.items() <= scores.items()
    assert scores["n_clusters"] == len(set(labels.tolist()) - {-1})
    assert {"ari", "pairwise_f1"} <= scores.keys()
    assert all(type(value) is float for value in scores.values())


def test_with_one_camera_the_labels_stand_for_the_model(finished_run: Run) -> None:
    run = Run(finished_run.path)
    run.dataset = replace(run.dataset, table=run.dataset.table.without_cameras())
    scores = label_free_score(run)
    assert scores["model_score"] == scores["label_free"] > 0


def test_score_does_not_read_identities(finished_run: Run) -> None:
    known, blind = label_free_score(finished_run), Run(finished_run.path)
    blind.dataset = replace(blind.dataset, table=blind.dataset.table.without_pids())
    unknown = label_free_score(blind)
    assert unknown == {name: known[name] for name in unknown}
    assert known.keys() - unknown.keys() == {"ari", "nmi", "pairwise_precision", "pairwise_recall", "pairwise_f1"}


def test_score_with_a_source_similarity_term(tmp_path: Path) -> None:
    """The labels are those that the run would train on next."""
    short = ("training.epochs=1", "training.iterations=1", "evaluation.every=null")
    run = train(tiny_config(tmp_path, *METHOD_RUNS["abmt"], *SOURCE, *short, "labels.source_weight=0.3"))
    table, source = run.dataset.train, read_dataset(run.config.source)
    features, others = run.embed_table(table), run.embed_table(source.train, source)

    def n_clusters(of_source: np.ndarray | None) -> float:
        return float(cluster_rows(features, run.config.labels, table.camids, source=of_source).raw.max() + 1)

    assert label_free_score(run)["n_clusters"] == n_clusters(others)
