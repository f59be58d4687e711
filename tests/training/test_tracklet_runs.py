"""Runs on tracklets: any method is evaluated on them by the protocol `mars`, and trained without labels on them."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from reid_ray.api import train
from reid_ray.cli import app
from reid_ray.data.readers import read_dataset
from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError, DataError
from reid_ray.evaluation import mars
from reid_ray.training.datasets import query_and_gallery

VIDEO = (
    "data.synthetic.tracklets_per_id=3",
    "data.synthetic.tracklet_frames=[2, 5]",
    "data.synthetic.n_train_ids=4",
    "data.synthetic.n_test_ids=3",
    "training.epochs=1",
    "training.iterations=2",
    "evaluation.protocol=mars",
)
METHODS = {
    "ice": (),
    "scr": (
        "method={name: scr, partitions: 'p1+p2(s2)', reduced_dim: 8, clip_frames: 2}",
        "training.sampler=random_instances",
    ),
}


def frames_of(table):
    """(split, tracklet) → rows, by appearance."""
    found = {}
    for row, key in enumerate(zip(table.arrow["split"].to_pylist(), table.tracklets.tolist(), strict=True)):
        found.setdefault(key, []).append(row)
    return found


def naive_mars(features, table, n_parts, n_frames):
    """Pool each tracklet in a loop and rank: query rows first in `table`."""
    parts = {}
    for (split, _), rows in frames_of(table).items():
        n = len(rows)
        chosen = rows if n_frames is None else [rows[int((i + 0.5) * n / n_frames)] for i in range(n_frames)]
        pooled = np.concatenate([features[part].mean(axis=0) for part in np.array_split(chosen, n_parts)])
        item = (pooled / np.linalg.norm(pooled), table.pids[rows[0]], table.camids[rows[0]])
        parts.setdefault(split, []).append(item)
    query, gallery = ([np.array(each) for each in zip(*parts[name], strict=True)] for name in ("query", "gallery"))
    return mars(query[0], gallery[0], query[1], gallery[1], query[2], gallery[2]).as_dict()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_evaluated_by_tracklets(tiny, method):
    run = train(tiny(*METHODS[method], *VIDEO))
    table = run.dataset.table
    splits = np.array(table.arrow["split"].to_pylist())
    table = table.take(np.concatenate([np.flatnonzero(splits == name) for name in ("query", "gallery")]))
    features = run.embed_table(table)
    logged = run.metrics("evaluate")[-1]
    expected = naive_mars(features, table, 1, None)
    assert expected["n_queries"] == len({key for key in frames_of(table) if key[0] == "query"})
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, abs=1e-5), name
    given = (("evaluation.temporal_parts=3", "evaluation.temporal_frames=15"), (3, 15))
    for overrides, (n_parts, n_frames) in (given, ((), (1, None))):
        result = CliRunner().invoke(app, ["evaluate", str(run.path), *overrides, "--json"], catch_exceptions=False)
        found = json.loads(result.stdout)
        assert found == pytest.approx(naive_mars(features, table, n_parts, n_frames), abs=1e-5)
    result = CliRunner().invoke(app, ["evaluate", str(run.path), "evaluation.protocol=single_query", "--json"])
    assert json.loads(result.stdout)["n_queries"] == int((splits == "query").sum())


def test_random_frames_follow_their_seed(tiny):
    run = train(tiny(*VIDEO))
    sampled = [
        "evaluation.temporal_frames=1",
        "evaluation.temporal_sampling=random",
        "data.synthetic.tracklet_frames=[9, 9]",
    ]

    def evaluated(seed):
        arguments = ["evaluate", str(run.path), *sampled, f"evaluation.temporal_seed={seed}", "--json"]
        return json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)

    assert evaluated(1) == evaluated(1)
    assert len({evaluated(seed)["mAP"] for seed in range(4)}) > 1


def test_frames_that_do_not_fit_the_parts_are_refused(tiny):
    with pytest.raises(ConfigError, match="temporal_frames=16 is not a multiple of temporal_parts=3"):
        tiny("evaluation.temporal_parts=3", "evaluation.temporal_frames=16")


def test_a_tracklet_of_two_people_is_an_error_before_training(tiny):
    config = tiny(*VIDEO)
    dataset = read_dataset(config.data)
    pids = dataset.table.pids.copy()
    pids[len(dataset.train)] = 999  # the first query image
    index = dataset.table.arrow.column_names.index("pid")
    mixed = ImageTable(dataset.table.arrow.set_column(index, dataset.table.arrow.schema.field("pid"), [pids]), "mixed")
    with pytest.raises(DataError, match=r"mixed: tracklet \d+ has images of pid"):
        query_and_gallery(mixed, config.evaluation)
    assert len(query_and_gallery(mixed, tiny().evaluation)) == len(dataset.query) + len(dataset.gallery)
