"""Pages of several runs, and the live report of one."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import begun_directory, tiny_config

import reid_ray
from reid_ray.cli import main
from reid_ray.reports.compare import compare_runs, different_settings, run_names
from reid_ray.reports.live import LiveReport, make_server
from reid_ray.run import Run, load_run
from reid_ray.training.metrics import MetricsLog


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        reid_ray.train(tiny_config(folder / name, "training.epochs=2", f"labels.eps={eps}"))
        for name, eps in (("a<b", 0.6), ("c", 0.7))
    ]


def report(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, arguments)])
    assert not ended.value.code


def test_comparison(runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report(*(run.path for run in runs))
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "a&lt;b/demo" in page
    assert "<td>labels.eps</td><td>0.6</td><td>0.7</td>" in page
    assert "data:image/png" in page
    assert different_settings(runs) == {"labels.eps": ["0.6", "0.7"]}
    assert run_names(runs) == ["a<b/demo", "c/demo"]


def test_the_same_queries_side_by_side(runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `--ranked` extracts features, and only of runs whose model has not been ranked yet."""
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "comparison.html"
    paths = [run.path for run in runs]
    report(*paths)
    assert "No run has been ranked yet" in page.read_text(encoding="utf-8")
    report(paths[1], "--ranked")
    assert "<h2>Hardest queries</h2>" in (paths[1] / "report.html").read_text(encoding="utf-8")
    report(*paths)
    assert "Not ranked yet: a&lt;b/demo" in page.read_text(encoding="utf-8")
    embedded: list[Path] = []
    extract = Run.embed_table

    def embed_table(run: Run, *arguments: Any, **options: Any) -> Any:
        embedded.append(Path(run.path))
        return extract(run, *arguments, **options)

    monkeypatch.setattr(Run, "embed_table", embed_table)
    report(*paths, "--ranked")
    assert embedded == [paths[0]]
    text = page.read_text(encoding="utf-8")
    assert "Not ranked" not in text
    assert text.count("<bdi>a&lt;b/demo</bdi>") == text.count("<bdi>c/demo</bdi>") == text.count("<h3>") > 0
    assert "http" not in text, "nothing is loaded from a network"


def test_the_run_with_the_highest_map_is_marked(tmp_path: Path) -> None:
    runs = []
    for name, scores in (("low", (0.31, 0.3)), ("high", (0.52, 0.1)), ("new", ())):
        directory = begun_directory(tiny_config(tmp_path, f"name={name}"))
        log = MetricsLog(directory.metrics_file)
        for epoch, score in enumerate(scores, start=1):
            log.write("evaluate", epoch=epoch, mAP=score, R1=score)
        runs.append(load_run(directory.path))
    page = Path(str(compare_runs(runs, tmp_path))).read_text(encoding="utf-8")
    marked = re.findall(r'<tr class="best"><td>(\w+)</td><td>[^<]*</td><td>([\d.]+)</td>', page)
    assert marked == [("high", "52.0")]


def test_report_shows_how_labels_move(runs: list[Run]) -> None:
    report(runs[0].path)
    assert "<h2>Labels from epoch to epoch</h2>" in (runs[0].path / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def address(runs: list[Run], tmp_path: Path) -> Iterator[tuple[str, int]]:
    gallery = runs[0].path / "gallery" / "sprites"
    gallery.mkdir(parents=True, exist_ok=True)
    (gallery.parent / "index.html").write_text("gallery")
    (gallery / "0000.jpg").write_bytes(b"jpeg")
    server = make_server(LiveReport(runs[0], tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield "127.0.0.1", server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def get(address: tuple[str, int], path: str, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_the_live_report(address: tuple[str, int], runs: list[Run], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs[0].path.rglob("*")}
    status, body = get(address, "/")
    assert status == 200
    assert b"<h2>Curves</h2>" in body
    assert b'http-equiv="refresh"' not in body, "the run has ended"
    assert get(address, "/gallery/index.html") == (200, b"gallery")
    assert get(address, "/gallery/sprites/0000.jpg?x=1") == (200, b"jpeg")
    assert {path: path.stat().st_mtime_ns for path in runs[0].path.rglob("*")} == before, "nothing is written there"


@pytest.mark.parametrize(
    "path",
    ["/config.yaml", "/gallery/../config.yaml", "/gallery/%2e%2e/config.yaml", "/gallery//etc/x.html", "/gallery"],
)
def test_other_files_are_not_served(address: tuple[str, int], path: str) -> None:
    assert get(address, path)[0] == 404


def test_other_hosts_are_refused(address: tuple[str, int]) -> None:
    assert get(address, "/", host="evil.example:80")[0] == 403
