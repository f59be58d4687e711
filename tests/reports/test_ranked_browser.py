"""The page of rankings in a real browser: rows scroll by keyboard, marks differ in shape, nothing is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_images import Grey

from reid_ray.data.table import ImageTable
from reid_ray.reports.page import write_page
from reid_ray.reports.ranked_rows import RankedRun, ranked_style, same_queries
from reid_ray.reports.rankings import Rankings


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_rows_of_matches(browser: Any, tmp_path: Path, scheme: str) -> None:
    query = ImageTable.from_columns(path=["0"], pid=[1], camid=[0], split="query")
    gallery = ImageTable.from_columns(path=[str(i) for i in range(10)], pid=np.arange(10) % 2, split="gallery")
    rankings = Rankings(["0"], np.array([0.5]), np.arange(10)[None], np.ones((1, 10), np.float32))
    run = RankedRun("one", rankings, query, gallery, Grey())
    file = write_page(tmp_path, [same_queries([run, run])], style=ranked_style())
    page = browser.new_page(viewport={"width": 500, "height": 800}, color_scheme=scheme)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("request", lambda request: messages.append(request.url) if request.url.startswith("http") else None)
    page.goto(file.as_uri())
    assert page.locator("img").count() == 21
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    style = "element => getComputedStyle(element).borderTopStyle"
    assert page.locator(".crop.wrong img").first.evaluate(style) == "dashed"
    assert page.locator(".crop.right img").first.evaluate(style) == "solid"
    rows = page.locator("ol.crops")
    for at in (0, 1):
        page.keyboard.press("Tab")
        assert rows.nth(at).evaluate("element => element === document.activeElement")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelectorAll('ol.crops')[1].scrollLeft > 0")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.close()
    assert messages == []
