"""The documentation as a site: it builds without a warning, asks no other server for anything, and has the API."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_the_documentation_is_a_page_of_the_site(site):
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs")
        folder = place.parent if page.name == "README.md" else place.with_suffix("")
        assert (site / folder / "index.html").exists(), place


def test_pages_load_nothing_from_other_servers(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]*)"', page.read_text())
        assert not loaded, page


def test_the_api_page_has_signatures_and_docstrings(site):
    page = (site / "api" / "index.html").read_text()
    for name in ("reid_ray.api.train", "reid_ray.run.Run.embed", "reid_ray.encoder.Encoder", "reid_ray.methods.Method"):
        assert f'id="{name}"' in page, name


def test_links_out_of_the_documentation_are_text_without_an_address_of_the_repository(site):
    page = (site / "methods" / "ice" / "index.html").read_text()
    assert "methods/ice.py" in page
    assert 'ice.py"' not in page
