import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from reid_ray.reports import curves, draw_curves
from reid_ray.reports.figures import new_figure


def drawn_panels(events) -> dict[str, list[str]]:
    return {
        panel.title: [name for name, points in panel.series.items() if points]
        for panel in curves._panels(events)
        if any(panel.series.values())
    }


def test_all_panels_of_a_complete_run(events):
    assert drawn_panels(events) == {
        "Retrieval, %": ["mAP", "R1"],
        "Label quality": ["ARI", "NMI", "pairwise F1"],
        "Clusters": ["clusters"],
        "Outliers, % of images": ["outliers"],
        "Loss": ["total", "hard", "soft"],
        "Learning rate": ["learning rate"],
        "Seconds per epoch": ["extract", "label", "train", "evaluate"],
        "Training, images per second": ["images/s"],
    }


@pytest.mark.parametrize("kind", ["start", "refresh", "step", "epoch", "evaluate"])
def test_events_of_one_kind_are_drawn_without_warnings(kind, events, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves([event for event in events if event["event"] == kind], tmp_path / "curves.png", title="$x")
    assert imread(tmp_path / "curves.png").ndim == 3


@pytest.mark.parametrize("n_events", [0, 1, 2, 3, 4, 9, 100])
def test_run_can_be_drawn_at_any_time(n_events, events, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves(events[:n_events], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_missing_values_are_left_out(tmp_path):
    log = [
        {"event": "refresh", "epoch": 0, "n_clusters": 0, "outlier_share": 0.0, "ari": None, "nmi": float("nan")},
        {"event": "step", "epoch": 0, "global_step": 1, "loss": float("inf"), "terms": None},
        {"event": "evaluate", "epoch": 1, "mAP": None, "R1": 0.5},
    ]
    assert drawn_panels(log) == {
        "Retrieval, %": ["R1"],
        "Clusters": ["clusters"],
        "Outliers, % of images": ["outliers"],
    }
    draw_curves(log, tmp_path / "curves.png")


def test_many_loss_terms_fit(tmp_path):
    terms = {f"term_{i}": 0.1 + i for i in range(9)}
    log = [{"event": "step", "epoch": 0, "global_step": i, "loss": 1.0, "terms": terms} for i in range(50)]
    draw_curves(log, tmp_path / "curves.png")
    assert len(drawn_panels(log)["Loss"]) == 10


def test_long_series_are_thinned_to_means():
    x, y = curves._thinned([(float(i), float(i % 2)) for i in range(6000)])
    assert len(x) == 300
    np.testing.assert_allclose(y, 0.5)
    assert x[0] == 9.5


def test_single_epoch_is_centred():
    axes = new_figure(4, 3).add_subplot()
    curves._draw(axes, curves.Panel("Clusters", "epoch", {"clusters": [(1.0, 5.0)]}, from_zero=True))
    assert axes.get_xlim() == (0, 2)
    assert axes.get_ylim()[0] == 0


def test_best_epoch_is_ringed(events):
    retrieval = curves._panels(events)[0]
    assert retrieval.mark == (2, pytest.approx(30.0), "best mAP 30.0")


def test_epochs_of_stages_are_consecutive(staged_events, tmp_path):
    """The best epoch is marked at its position among the epochs of all stages."""
    panels = {panel.title: panel for panel in curves._panels(staged_events)}
    assert [x for x, _ in panels["Clusters"].series["clusters"]] == [1, 2, 3, 4, 5]
    assert [x for x, _ in panels["Retrieval, %"].series["mAP"]] == [2, 3, 4, 5]
    assert panels["Retrieval, %"].mark == (4, pytest.approx(30.0), "best mAP 30.0")
    assert [x for x, _ in panels["Loss"].series["total"]] == list(range(1, 26))
    assert [x for x, _ in panels["Seconds per epoch"].series["train"]] == [1, 2, 3, 4, 5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves(staged_events, tmp_path / "curves.png")
