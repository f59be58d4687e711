"""The label-free objective of a search: quality of a model without ground truth, which a run does not log itself."""

from __future__ import annotations

from reid_ray.data.readers import read_dataset
from reid_ray.labels.camera_cycles import cycle_consistency
from reid_ray.labels.label_free import label_free_scores
from reid_ray.labels.objective import label_free_objective, reference_graphs
from reid_ray.labels.quality import ground_truth_scores, label_statistics
from reid_ray.labels.refresh import cluster_rows
from reid_ray.methods import stages_of
from reid_ray.run import Run
from reid_ray.types import FeatureRows, IntArray


def model_score(features: FeatureRows, camids: IntArray, label_free: float) -> float:
    """Quality of a model without ground truth, 0 … 1: `cycle_consistency` of its features of the training images.

    Args:
        features: float32 [N, D], L2-normalised.
        camids: int64 [N].
        label_free: the score with fewer than two cameras: the objective of the labels.
    """
    cycles = cycle_consistency(features, camids)
    return label_free if cycles is None else cycles


def label_free_score(run: Run) -> dict[str, float]:
    """Quality of a run's last model and of its labels, without ground truth.

    Features of the training table are clustered with the run's own label settings. The clusters are judged in
    `reference_graphs`, which are defined alike for all runs, whatever their k1, eps or variant.

    Returns:
        `model_score`, `label_free` (`label_free_objective`), the scores of `label_free_scores`, and `n_clusters`; with
        known identities also `ground_truth_scores`, for analysis only: a label-free objective must not use them.

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
    label_free = label_free_objective(labels, references, table.tracklets)
    answer = {"model_score": model_score(features, table.camids, label_free), "label_free": label_free}
    answer |= label_free_scores(labels, references[0], table.camids)
    answer["n_clusters"] = float(label_statistics(labels)["n_clusters"])
    return answer | (ground_truth_scores(labels, table.pids) if table.has_pids else {})
