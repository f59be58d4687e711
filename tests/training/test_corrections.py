"""A run obeys the corrections of `labels.constraints`, keeps them, and ends the same when it is killed and resumed."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_runs import tiny_config

import reid_ray
from reid_ray.data.readers import read_dataset
from reid_ray.errors import DataError, RunError
from reid_ray.training.rundir import RunDirectory

HEADER = "path_a,path_b,verdict\n"


@pytest.fixture
def corrections(tmp_path):
    """A file that joins images 0 and 20, parts 0 and 1, and throws out image 30."""
    paths = read_dataset(tiny_config(tmp_path).data).train.paths
    file = tmp_path / "corrections.csv"
    file.write_text(f"{HEADER}{paths[0]},{paths[20]},same\n{paths[0]},{paths[1]},different\n{paths[30]},,junk\n")
    return file


def test_a_run_obeys_and_keeps_corrections(tmp_path, corrections):
    config = tiny_config(tmp_path, f"labels.constraints={corrections}", "training.epochs=1")
    run = reid_ray.train(config)
    labels = pq.read_table(run.path / "labels" / "epoch-000.parquet")["label"].to_numpy()
    assert labels[0] == labels[20] != -1
    assert labels[1] != labels[0]
    assert labels[30] == -1
    refresh = run.metrics("refresh")[0]
    assert [refresh[f"n_{kind}"] for kind in ("same", "different", "junk")] == [1, 1, 1]
    assert (run.path / "constraints.csv").read_bytes() == corrections.read_bytes()

    moved = tmp_path / "moved.csv"
    corrections.rename(moved)
    longer = tiny_config(tmp_path, f"labels.constraints={moved}")
    resumed = reid_ray.train(longer)
    whole = reid_ray.train(tiny_config(tmp_path / "whole", f"labels.constraints={moved}"))
    for epoch in range(2):
        assert resumed.labels(epoch).equals(whole.labels(epoch))
    assert np.array_equal(*(run.embed_table(run.dataset.query) for run in (resumed, whole)))

    moved.write_text(HEADER)
    with pytest.raises(
        RunError, match=r"holds a run with other label constraints; .* labels\.constraints=.*constraints\.csv"
    ):
        reid_ray.train(longer)
    with pytest.raises(RunError, match="holds a run with other label constraints"):
        RunDirectory.of(longer).check(tiny_config(tmp_path))


def test_contradictions_end_a_run_before_it_begins(tmp_path, corrections):
    lines = corrections.read_text().splitlines()
    first, second, _ = lines[2].split(",")
    corrections.write_text("\n".join([*lines, f"{first},{second},same\n"]))
    config = tiny_config(tmp_path / "none", f"labels.constraints={corrections}")
    with pytest.raises(DataError, match=r"line 3: .* are different, but line 5 makes them the same"):
        reid_ray.train(config)
    assert not (tmp_path / "none").exists()
