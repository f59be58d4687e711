"""The label-free objective of a search: label quality without ground truth, which a run does not log itself."""

from __future__ import annotations

from reid_ray.data.readers import read_dataset
from reid_ray.labels.label_free import label_free_scores
from reid_ray.labels.objective import label_free_objective, reference_graphs
from reid_ray.labels.quality import ground_truth_scores, label_statistics
from reid_ray.labels.refresh import cluster_rows
from reid_ray.methods import stages_of
from reid_ray.run import Run


def label_free_score(run: Run) -> dict[str, float]:
    """Label quality of a run's last model, without ground truth.

    Features of the training table are clustered with the run's own label settings. The clusters are judged in
    `reference_graphs`, which are defined alike for all runs, whatever their k1, eps or variant.

    Returns:
        `label_free` (`label_free_objective`), the scores of `label_free_scores`, and `n_clusters`; with known
        identities also `ground_truth_scores`, for analysis only: a label-free objective must not use them.

    Raises:
        RunError: the run has no model yet.
    """
    table, device = run.dataset.train, next(run.model.parameters()).device
    features = run.embed_table(table)
    main = stages_of(run.config)[-1]
    compared = main.streams[main.primary].labels.compare_with
    of_source = None
    if compared is not None:
        source = read_dataset(getattr(run.config, compared))
        of_source = run.embed_table(source.train, source)
    labels = cluster_rows(features, run.config.labels, table.camids, device=device, source=of_source).raw
    references = reference_graphs(features, device)
    answer = {"label_free": label_free_objective(labels, references, table.tracklets)}
    answer |= label_free_scores(labels, references[0], table.camids)
    answer["n_clusters"] = float(label_statistics(labels)["n_clusters"])
    return answer | (ground_truth_scores(labels, table.pids) if table.has_pids else {})
