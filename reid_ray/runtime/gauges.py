"""Metrics of a run as Ray metrics, for the dashboard and Ray's Prometheus endpoint."""

from __future__ import annotations

from ray.util.metrics import Gauge

from reid_ray.training.metrics import Event

GAUGES = {
    "loss": ("step", "loss", "Loss of the last logged step"),
    "lr": ("step", "lr", "Learning rate"),
    "epoch": ("step", "epoch", "Current epoch, from 0"),
    "images_per_second": ("epoch", "images_per_second", "Training images per second, all workers together"),
    "clusters": ("refresh", "n_clusters", "Clusters of the last refresh"),
    "outlier_share": ("refresh", "outlier_share", "Share of images in no cluster"),
    "extract_seconds": ("refresh", "extract_seconds", "Seconds of extraction in the last refresh"),
    "label_seconds": ("refresh", "label_seconds", "Seconds of clustering in the last refresh"),
    "refresh_wait_seconds": ("refresh", "wait_seconds", "Seconds that training waited for the refresh"),
    "label_staleness": ("refresh", "staleness", "Epochs that the labels lag behind the weights"),
    "map": ("evaluate", "mAP", "Mean average precision of the last evaluation"),
}
"""Metric name without `reid_` → event, field, description."""


class Gauges:
    """A listener of a run's events that sets one gauge per metric, tagged with `run`."""

    def __init__(self, run: str) -> None:
        self._gauges = {
            name: Gauge(f"reid_{name}", description=text, tag_keys=("run",)) for name, (_, _, text) in GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run})

    def __call__(self, event: Event) -> None:
        for name, (kind, field, _) in GAUGES.items():
            if event["event"] == kind and event.get(field) is not None:
                self._gauges[name].set(float(event[field]))
