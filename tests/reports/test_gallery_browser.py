"""The gallery in a real browser: every control works, the console stays empty, marks become constraints."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_images import NASTY, Grey

from reid_ray.data.table import ImageTable
from reid_ray.labels.constraints import parse_verdicts
from reid_ray.reports.gallery import Pair, Scores, write_gallery

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, -1, -1, -1])
PATHS = ["0", "1", "2", "3", *NASTY]


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    table = ImageTable.from_columns(
        path=PATHS,
        camid=np.arange(10) % 3,
        pid=[0, 0, 1, 0, 2, 2, 2, 3, 3, -1],
        extra={"time": [None, datetime(2024, 5, 1, 12, 3, 7), *[None] * 8]},
    )
    scores = Scores(
        np.array([1, 4]),
        {0: 0.7, 1: 0.1},
        [Pair(1, 4, "merge", 0.4), Pair(0, 2, "split", 0.3), Pair(4, 7, "merge", 0.2)],
    )
    file = write_gallery(tmp_path / "gallery", table, LABELS, Grey(), title=NASTY[0], scores=scores)
    context = browser.new_context(accept_downloads=True)
    opened = context.new_page()
    messages: list[str] = []
    opened.on("console", lambda message: messages.append(message.text))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.on(
        "request",
        lambda request: (
            messages.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None
        ),
    )
    opened.goto(file.as_uri())
    opened.wait_for_selector("html[data-ready]")
    yield opened
    context.close()
    assert messages == []


def constraints(page: Any) -> list[tuple[str, str, str]]:
    with page.expect_download() as waiting:
        page.click("#download")
    assert waiting.value.suggested_filename == "constraints.csv"
    text = Path(waiting.value.path()).read_text(encoding="utf-8")
    return [verdict[1:] for verdict in parse_verdicts(text, "constraints.csv")]


def crop(page: Any, at: int) -> Any:
    return page.locator(f'main .crop[data-at="{at}"]').first


def test_questions_are_answered(page: Any) -> None:
    assert page.locator(".question").count() == 3
    page.click('.question >> nth=0 >> button[data-verdict="different"]')
    page.click('.question >> nth=0 >> button[data-verdict="same"]')  # a change of mind
    page.click('.question >> nth=2 >> button[data-verdict="different"]')
    assert page.locator(".question.answered").count() == 2
    assert constraints(page) == [("1", NASTY[0], "same"), (NASTY[0], NASTY[3], "different")]


def test_marks_by_mouse(page: Any) -> None:
    """Positions: the typical image 1 comes first, so 0: '1', 1: '0', 2: '2', 3: '3', then the others in order."""
    page.select_option("#view", "largest")
    assert page.locator("main h2").all_inner_texts() == ["Cluster 0", "Cluster 1"]
    for at in (0, 1):
        crop(page, at).click()
    page.click("#same")
    for at in (2, 3):
        crop(page, at).click()
    page.click("#different")
    crop(page, 2).click()
    page.click("#split")
    crop(page, 4).click()
    page.click("#junk")
    crop(page, 5).click()
    page.click("#junk")
    page.click("#undo")
    assert "junk" in crop(page, 4).get_attribute("class")
    assert "junk" not in crop(page, 5).get_attribute("class")
    page.click("#list")
    assert page.locator("#marks tr").count() == 4
    page.click("#close")
    assert constraints(page) == [
        ("1", "0", "same"),
        ("2", "3", "different"),
        ("1", "2", "different"),
        (NASTY[0], "", "junk"),
    ]


def test_marks_by_keyboard_survive_a_reload(page: Any) -> None:
    page.select_option("#view", "largest")
    crop(page, 0).focus()
    for key in ("Space", "ArrowRight", "ArrowRight", "Space", "ArrowLeft", "s", "ArrowDown", "Space", "Escape", "j"):
        page.keyboard.press(key)
    assert page.locator("#count").inner_text() == "1"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert constraints(page) == [("1", "2", "same")]


@pytest.mark.parametrize("view", ["questions", "mixed", "near", "largest", "cameras", "wrong", "outliers"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_shows_crops(page: Any, view: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.select_option("#view", view)
    page.wait_for_selector("main .crop")
    shown = page.locator("main .crop").evaluate_all("crops => crops.map(crop => crop.getAttribute('aria-label'))")
    assert all(shown)
    if view == "wrong":
        assert page.locator(".crop.wrong").count() == 1
        assert "another identity" in page.locator(".crop.wrong").get_attribute("aria-label")
    if view == "outliers":
        assert [text.split(", camera")[0] for text in shown] == [NASTY[3], NASTY[4], NASTY[5]]


def test_names_are_text(page: Any) -> None:
    assert page.locator("h1").inner_text() == NASTY[0]
    page.select_option("#view", "largest")
    for at, name in enumerate(NASTY[:3], start=4):
        crop(page, at).hover()
        assert page.locator("#detail").text_content().startswith(name)


def test_captions_name_camera_and_time(page: Any) -> None:
    """The typical image 1 comes first."""
    page.select_option("#view", "largest")
    assert crop(page, 0).locator(".camera").all_inner_texts() == ["c1 ★", "12:03:07"]
    assert "camera 1, 2024-05-01 12:03:07, identity 0" in crop(page, 0).get_attribute("aria-label")
    assert crop(page, 1).locator(".camera").all_inner_texts() == ["c0", "–"]
