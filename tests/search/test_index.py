"""An index: built, resumed, added to and searched; equal to brute force; writers keep out of each other's way."""

import subprocess
import sys
from datetime import datetime
from functools import partial
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.io import encode_jpeg

from reid_ray.config import DataConfig
from reid_ray.data.images import Dataset
from reid_ray.data.readers import read_dataset
from reid_ray.errors import DataError, RunError
from reid_ray.io.lease import hold
from reid_ray.search import Index, build_index, choose_threshold, threshold_of_clusters, threshold_of_labels
from reid_ray.search import build as building
from reid_ray.search import choose as choosing
from reid_ray.search.threshold import chosen_rows


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Two lists of crops by synthetic cameras, with identities and times."""
    from reid_ray.config import SyntheticConfig
    from reid_ray.data.synthetic import make_dataset

    folder = tmp_path_factory.mktemp("crops")
    dataset = make_dataset(SyntheticConfig(n_train_ids=8, n_test_ids=0, n_cameras=3, images_per_id=6))
    rows = []
    for i, path in enumerate(dataset.table.paths):
        file = folder / f"{i:03d}.jpg"
        file.write_bytes(encode_jpeg(dataset.images.read(path)).numpy().tobytes())
        rows.append((file.name, dataset.table.pids[i], dataset.table.camids[i], datetime(2026, 5, 1 + i % 20)))
    for name, part in (("first", rows[:30]), ("all", rows)):
        names, pids, camids, times = zip(*part, strict=True)
        columns = {"path": names, "pid": pids, "camid": camids, "time": times}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def listed(crops, name, run):
    """A list, read at the size of the run."""
    size = {"height": run.config.data.height, "width": run.config.data.width}
    data = DataConfig(layout="parquet", root=str(crops / f"{name}.parquet"), **size)
    return read_dataset(data), data


def build(run, crops, name, out, **options):
    dataset, data = listed(crops, name, run)
    return build_index(run, dataset, data, out, **options)


def with_settings(run, **sections):
    """The run, opened again with other settings than it was trained with."""
    changed = {name: getattr(run.config, name).model_copy(update=values) for name, values in sections.items()}
    opened = type(run)(run.path)
    opened.__dict__["config"] = run.config.model_copy(update=changed)
    return opened


@pytest.fixture(scope="module")
def index(finished_run, crops, tmp_path_factory):
    """An index in two parts. Tests do not change it."""
    out = tmp_path_factory.mktemp("indexed") / "index"
    build(finished_run, crops, "first", out)
    added = build(finished_run, crops, "all", out, append=True)
    assert (added.n_images, added.n_known, added.n_total) == (18, 30, 48)
    return Index(out)


def test_matches_equal_brute_force(finished_run, crops, index):
    dataset, _ = listed(crops, "all", finished_run)
    features = finished_run.embed_table(dataset.table, dataset)
    assert index.table["path"].to_pylist() == dataset.table.paths
    np.testing.assert_allclose(index.features[0:48], features, atol=1e-6)
    found = index.search([dataset.table.paths[i] for i in (3, 40)], top=48)
    for rows, values, query in zip(found.rows, found.similarities, (3, 40), strict=True):
        assert rows[0] == query
        np.testing.assert_allclose(values, (features @ features[query])[rows], atol=1e-5)
        assert (np.diff(values) <= 0).all()
        assert sorted(rows) == list(range(48))
    assert found.accepted is None


def test_queries_may_be_images_or_features(index):
    images = [index.image(row) for row in (0, 35)]
    assert index.search(images, top=1).rows.tolist() == [[0], [35]]
    assert index.search(index.features[30:33], top=1).rows.tolist() == [[30], [31], [32]]
    assert index.search(images[0].permute(1, 2, 0).numpy(), top=1).rows.tolist() == [[0]]
    with pytest.raises(DataError, match=r"features of norm 1 to 3, and must be L2-normalised"):
        index.search(index.features[30:32] * np.float32([[1], [3]]))


def test_a_search_loads_no_slow_packages(index):
    """pandas, which parts of pyarrow import, takes longer than the search."""
    code = (
        "import sys, numpy, reid_ray; "
        f"opened = reid_ray.Index({str(index.path)!r}); "
        "found = opened.search(numpy.zeros((64, 32, 3), numpy.uint8)); "
        "opened.table['path'][int(found.rows[0, 0])].as_py(); "
        "print([name for name in ('torchvision', 'pandas', 'sklearn', 'ray') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_filters(index):
    table = index.table
    found = index.search(
        index.features[0:1], top=48, cameras=[1], since=datetime(2026, 5, 3), until=datetime(2026, 5, 9)
    )
    rows = found.rows[0][found.rows[0] >= 0]
    expected = [
        i
        for i, (camera, time) in enumerate(zip(table["camid"].to_pylist(), table["time"].to_pylist(), strict=True))
        if camera == 1 and datetime(2026, 5, 3) <= time < datetime(2026, 5, 9)
    ]
    assert sorted(rows) == expected
    assert (found.similarities[0][len(rows) :] == -np.inf).all()
    with pytest.raises(DataError, match=r"its cameras are 0, 1, 2"):
        index.search(index.features[0:1], cameras=[7])


def test_an_index_without_times_says_so(finished_run, tmp_path):
    dataset = finished_run.dataset
    build_index(finished_run, dataset, finished_run.config.data, tmp_path / "index")
    with pytest.raises(DataError, match="no column 'time'"):
        Index(tmp_path / "index").search(np.eye(64, dtype=np.float32)[:1], since=datetime(2026, 1, 1))


def test_the_same_keys_in_other_storage_are_other_images(finished_run, tmp_path):
    """Worlds of different seeds have keys in common."""
    data = finished_run.config.data
    other = data.model_copy(update={"synthetic": data.synthetic.model_copy(update={"seed": 1})})
    first, second = read_dataset(data), read_dataset(other)
    assert set(first.table.paths) & set(second.table.paths)
    n, m = len(first.table), len(second.table)
    build_index(finished_run, first, data, tmp_path / "index")
    assert build_index(finished_run, second, other, tmp_path / "index", append=True).n_images == m
    assert build_index(finished_run, second, other, tmp_path / "index", append=True).n_known == m
    opened = Index(tmp_path / "index")
    for row, dataset, at in ((0, first, 0), (n - 1, first, -1), (n, second, 0), (n + m - 1, second, -1)):
        assert torch.equal(opened.image(row), dataset.images.read(dataset.table.paths[at]))


def test_appending_computes_only_what_is_new(finished_run, crops, tmp_path, monkeypatch):
    out = tmp_path / "index"
    build(finished_run, crops, "first", out)
    files = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    embedded = []
    original = type(finished_run).embed_table
    monkeypatch.setattr(
        type(finished_run),
        "embed_table",
        lambda self, table, *a, **k: embedded.append(len(table)) or original(self, table, *a, **k),
    )
    build(finished_run, crops, "all", out, append=True)
    assert sum(embedded) == 18
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert build(finished_run, crops, "all", out, append=True).n_images == 0
    assert len(Index(out).manifest.parts) == 2


def test_an_interrupted_build_resumes(finished_run, crops, tmp_path, monkeypatch):
    out = tmp_path / "index"
    original = type(finished_run).embed_table
    done = []

    def interrupted(self, table, *arguments, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(table))
        return original(self, table, *arguments, **options)

    monkeypatch.setattr(type(finished_run), "embed_table", interrupted)
    run = with_settings(finished_run, evaluation={"batch_size": 4})
    with pytest.raises(KeyboardInterrupt):
        build(run, crops, "all", out)
    with pytest.raises(DataError, match="not an index"):
        Index(out)
    monkeypatch.setattr(type(finished_run), "embed_table", original)
    begun = []
    build(run, crops, "all", out, on_begin=lambda *counts: begun.append(counts))
    assert begun == [(sum(done), 48)]
    assert len(Index(out)) == 48


def test_two_writers(finished_run, crops, tmp_path):
    out = tmp_path / "index"
    with hold(out / building.LEASE, "indexing"), pytest.raises(RunError, match="Another process is already indexing"):
        build(finished_run, crops, "first", out)


def test_folders_that_are_something_else(finished_run, crops, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not an index; choose another --out"):
        build(finished_run, crops, "first", tmp_path / "other")
    with pytest.raises(DataError, match=r"it has no _index\.json"):
        build(finished_run, crops, "first", tmp_path / "none", append=True)
    out = tmp_path / "index"
    build(finished_run, crops, "first", out)
    with pytest.raises(DataError, match="add --append"):
        build(finished_run, crops, "first", out)
    with pytest.raises(RunError, match="features of images at 32×16; features of two models"):
        build(with_settings(finished_run, data={"width": 24}), crops, "all", out, append=True)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": "reid-ray-index 9"}', '{"format": "reid-ray-index 1", "parts": 3}']
)
def test_damaged_manifests(tmp_path, text):
    (tmp_path / "_index.json").write_text(text)
    with pytest.raises(DataError, match=r"Cannot read .*_index\.json"):
        Index(tmp_path)


def test_another_model_is_refused(finished_run, crops, tmp_path):
    out = tmp_path / "index"
    build(finished_run, crops, "first", out)
    manifest = out / "part-00000" / "_manifest.json"
    manifest.write_text(manifest.read_text().replace('"model": "', '"model": "0'))
    with pytest.raises(RunError, match="is not the one that made"):
        Index(out).search(str(crops / "000.jpg"))
    with pytest.raises(RunError, match="not a run directory"):
        Index(out, run=tmp_path).search(str(crops / "000.jpg"))


def test_thresholds_are_kept_in_the_index(finished_run, crops, tmp_path):
    out = tmp_path / "index"
    build(finished_run, crops, "all", out)
    opened = Index(out)
    dataset = finished_run.dataset
    by_labels = threshold_of_labels(opened, dataset, finished_run.embed_table, false_accept=0.1)
    assert by_labels.origin == "labels"
    strangers = dataset.query.pids.tolist() + dataset.gallery.pids.tolist()  # the model was not trained on them
    assert by_labels.n_different == sum(a != b for a, b in combinations(strangers, 2))
    found = Index(out).search(opened.features[0:2], top=5)
    assert found.threshold == by_labels
    np.testing.assert_array_equal(found.accepted, found.similarities >= np.float32(by_labels.value))
    with pytest.raises(DataError, match="no query and gallery images with identities"):
        threshold_of_labels(opened, listed(crops, "all", finished_run)[0], finished_run.embed_table, false_accept=0.1)
    by_clusters = threshold_of_clusters(opened, false_accept=0.1)
    assert Index(out).threshold == by_clusters
    assert by_clusters.origin == "clusters"


def test_a_threshold_embeds_only_images_that_it_compares(finished_run, crops, tmp_path, monkeypatch):
    """Not those of a person without a query, such as distractors, who share a pid, nor more than a sample."""
    out = tmp_path / "index"
    build(finished_run, crops, "all", out)
    dataset = finished_run.dataset
    distractor = dataset.query.pids[0]
    splits = np.array(dataset.table.arrow["split"].to_pylist())
    table = dataset.table.where((splits != "query") | (dataset.table.pids != distractor))
    others = table.where((np.array(table.arrow["split"].to_pylist()) != "train") & (table.pids != distractor))
    assert (table.split("gallery").pids == distractor).any()
    embedded = []

    def embed(table, images):
        embedded.append(table.paths)
        return finished_run.embed_table(table, images)

    chosen = threshold_of_labels(Index(out), Dataset(table, dataset.images), embed, false_accept=0.1)
    assert chosen.n_different == sum(a != b for a, b in combinations(others.pids.tolist(), 2))
    monkeypatch.setattr(choosing, "chosen_rows", partial(chosen_rows, max_images=10))
    sampled = threshold_of_labels(Index(out), Dataset(table, dataset.images), embed, false_accept=0.1)
    assert [len(paths) for paths in embedded] == [len(others), 10]
    features = finished_run.embed_table(others, dataset)
    options = {"false_accept": 0.1, "origin": "labels", "data": table.name, "max_images": 10}
    expected = choose_threshold(features, others.pids, others.camids, **options)
    assert (sampled.n_same, sampled.n_different) == (expected.n_same, expected.n_different)
    assert sampled.value == pytest.approx(expected.value, abs=1e-3)
