import re
from html.parser import HTMLParser

import pytest

from reid_ray.reports import draw_curves, write_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text and addresses."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def report(tmp_path):
    def write(events, config="name: x", images=None, name="market-ice") -> tuple[str, Page]:
        run_dir = tmp_path / name
        run_dir.mkdir()
        path = write_report(run_dir, events, config, images or {})
        assert path == run_dir / "report.html"
        assert [file.name for file in run_dir.iterdir()] == ["report.html"]
        source = path.read_text("utf-8")
        return source, Page(source)

    return write


def test_finished_run(report, events, tmp_path):
    draw_curves(events, tmp_path / "curves.png")
    images = {"Curves": tmp_path / "curves.png", "Ranked gallery": tmp_path / "not-there.png"}
    ended = [*events, {"event": "end", "time": 9.0, "epochs": 3, "seconds": 1234.5678}]
    source, page = report(ended, "labels:\n  eps: 0.55", images)
    words = page.words()
    for expected in (
        "market-ice finished",
        "Start before training 10.0 % mAP",
        "Best chosen by mAP on query and gallery, after epoch 2 30.0 % mAP",
        "Last after epoch 3 25.0 % mAP",
        "eps: 0.55",
        "device cpu",
        "seconds 1,234.6",
    ):
        assert expected in words
    assert "Ranked gallery" not in words
    assert len(page.addresses) == 1
    assert page.addresses[0].startswith("data:image/png;base64,iVBOR")
    assert "prefers-color-scheme: dark" in source


def test_run_of_several_stages(report, staged_events):
    source, page = report([*staged_events, {"event": "end", "time": 9.0, "stage": "main", "epochs": 3, "seconds": 9.0}])
    words = page.words()
    assert "Best chosen by mAP on query and gallery, after epoch 2 30.0 % mAP" in words
    assert source.count('class="best"') == 1
    assert re.search(r'class="best"><td>main</td><td>2</td><td>30\.0</td>', source)
    assert words.count("source") >= 2


def test_page_is_self_contained(report, events):
    source, page = report(events)
    assert page.addresses == []
    assert not re.search(r"https?://|@import|url\(|<script", source)


@pytest.mark.parametrize("n_events", [0, 1, 2, 3, 5, 12])
def test_run_in_progress(report, events, n_events):
    _, page = report(events[:n_events])
    assert "market-ice in progress" in page.words()


def test_run_without_evaluation(report, events):
    log = [event for event in events if event["event"] != "evaluate"]
    _, page = report(log)
    assert "This run has no evaluation yet" in page.words()
    assert "clusters" in page.words()


def test_empty_run(report):
    assert "No epoch has been logged yet" in report([])[1].words()


def test_everything_is_escaped(report, tmp_path):
    evil = "<script>alert('x')</script> & {title}"
    (tmp_path / "a.png").write_bytes(b"not really a picture")
    log = [{"event": "start", "device<b>": evil}, {"event": "evaluate", "epoch": 0, "mAP": 0.5, "R1": "<b>"}]
    source, page = report(log, f"name: {evil}", {f'"{evil}': tmp_path / "a.png"}, name="a<b>&")
    assert "<script" not in source
    assert "<b>" not in source.replace("<body>", "")
    assert page.words().count(evil) == 3


def test_one_row_is_marked_best(report, events):
    source, _ = report(events)
    assert source.count('class="best"') == 1
    assert re.search(r'class="best"><td>2</td><td>30\.0</td>', source)
