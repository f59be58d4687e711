"""benchmarks/export.py, clients.py and search.py on small data: their figures are those of the package."""

import re

import clients
import export
import pytest
import search

import reid_ray
from reid_ray.config import DataConfig
from reid_ray.data.readers import read_dataset
from reid_ray.evaluation import evaluate_table


def test_backends_are_evaluated(exported_folder, market_copy, capsys):
    export.main([str(exported_folder), str(market_copy), "--evaluate", "--backends", "run", "float32"])
    *_, as_run, in_float32 = capsys.readouterr().out.splitlines()
    dataset = read_dataset(DataConfig(layout="market1501", root=str(market_copy)))
    for row, precision in ((as_run, "run"), (in_float32, "float32")):
        encoder = reid_ray.load_encoder(exported_folder, precision=precision, batch_size=export.BATCH)
        features = (encoder.embed(split.paths) for split in (dataset.query, dataset.gallery))
        expected = evaluate_table(*features, dataset.table)
        title, *figures = row.strip("| ").split(" | ")
        assert title == f"PyTorch, {'precision of the run' if precision == 'run' else precision}"
        assert figures[:2] == [f"{100 * expected.mAP:.2f}", f"{100 * expected.rank(1):.2f}"]
        assert 5 < float(figures[0]) < 95


def test_clients_that_are_not_installed_are_named(exported_folder, market_copy, capsys, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(clients.importlib, "import_module", missing)
    clients.main([str(exported_folder), str(market_copy)])
    printed = capsys.readouterr().out
    assert re.findall(r"^\| (\w+) \| \| not installed", printed, re.MULTILINE) == ["reid", "boxmot", "torchreid"]


def test_exact_and_approximate_search(capsys):
    pytest.importorskip("faiss")
    search.main(["--random", "3000", "16", "--queries", "5", "--top", "4"])
    printed = capsys.readouterr().out
    assert printed.startswith("3,000 × 16, top 4, 5 queries")
    assert re.findall(r"approximate query, (\d+) of 69 cells .* recall (\S+)%", printed)[-1] == ("256", "100.0")


def test_a_search_needs_an_index_or_random_vectors(capsys):
    with pytest.raises(SystemExit):
        search.main([])
    assert "give INDEX and FOLDER, or --random N D" in capsys.readouterr().err
