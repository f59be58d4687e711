"""The label-free score of a run: what it is made of, and that it reads no identities."""

from __future__ import annotations

from dataclasses import replace

from reid_ray.labels.label_free import common_graph, label_free_objective, label_free_scores
from reid_ray.labels.refresh import cluster_rows
from reid_ray.run import Run
from tuning.objectives import label_free_score


def test_it_is_that_of_the_labels_of_the_last_model(finished_run: Run) -> None:
    scores = label_free_score(finished_run)
    table = finished_run.dataset.train
    features = finished_run.embed_table(table)
    labels = cluster_rows(features, finished_run.config.labels, table.camids).labels
    expected = label_free_scores(labels, common_graph(features), table.camids)
    assert expected.items() <= scores.items()
    assert scores["label_free"] == label_free_objective(expected)
    assert scores["n_clusters"] == len(set(labels.tolist()) - {-1})
    assert {"ari", "pairwise_f1"} <= scores.keys()
    assert all(type(value) is float for value in scores.values())


def test_it_reads_no_identities(finished_run: Run) -> None:
    known, blind = label_free_score(finished_run), Run(finished_run.path)
    blind.dataset = replace(blind.dataset, table=blind.dataset.table.without_pids())
    unknown = label_free_score(blind)
    assert unknown == {name: known[name] for name in unknown}
    assert known.keys() - unknown.keys() == {"ari", "nmi", "pairwise_precision", "pairwise_recall", "pairwise_f1"}
