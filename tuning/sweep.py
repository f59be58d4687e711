"""The inner level of a search: many label settings on the features of one trained model."""

from __future__ import annotations

from collections.abc import Sequence

from reid_ray.labels.objective import is_separated
from reid_ray.labels.sweep import Setting, parse_grid, sweep, swept_name
from reid_ray.run import Run
from reid_ray.tuning.objectives import model_score
from reid_ray.tuning.spaces import Values


def best_setting(run: Run, grid: Sequence[str]) -> tuple[Values, float]:
    """The best settings of `labels` in a grid for a run's last model, and the model's score.

    The run's own settings compete too, and stay if the objective does not separate the best from them.

    Args:
        run: finished.
        grid: in the format of `parse_grid`; other settings are those of the run.

    Returns:
        The keys that the grid varies with their values, such as `labels.eps`, and `model_score`; the first of ties.
    """
    own = Setting.of(run.config.labels)
    settings = [own, *parse_grid(grid, own)]
    table, memory_mb = run.dataset.train, run.config.labels.memory_mb
    features = run.embed_table(table)
    results = sweep(features, settings, table.camids, tracklets=table.tracklets, memory_mb=memory_mb)
    best = max(results, key=lambda result: result["label_free"])
    best = best if is_separated(best["label_free"], results[0]["label_free"]) else results[0]
    chosen = {f"labels.{name}": best[name] for name in map(swept_name, grid)}
    return chosen, model_score(features, table.camids, float(best["label_free"]))
