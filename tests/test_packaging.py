"""What gets installed: one top-level package that holds everything, under the version of the source."""

import shutil
import subprocess
import sys
import tomllib
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

import reid_ray

ROOT = Path(__file__).parents[1]
FOLDERS = ("reid_ray", "jobs", "tuning")
FILES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources, so that no stale `build` folder adds files to it."""
    if find_spec("setuptools") is None or find_spec("pip") is None:
        pytest.skip("needs setuptools and pip")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, source / file)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(out)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    (file,) = out.glob("*.whl")
    with ZipFile(file) as opened:
        yield opened


def test_the_wheel_holds_one_top_level_package(wheel):
    top = {name.partition("/")[0] for name in wheel.namelist()}
    assert top == {"reid_ray", f"reid_ray-{reid_ray.__version__}.dist-info"}


def test_the_wheel_holds_every_module_and_recipe(wheel):
    modules = {
        file.relative_to(ROOT).as_posix()
        for suffix in ("py", "yaml", "html", "css", "js")
        for file in (ROOT / "reid_ray").rglob(f"*.{suffix}")
    }
    for folder in ("jobs", "tuning"):  # reid_ray has links to them, which rglob may not follow
        modules |= {f"reid_ray/{folder}/{file.name}" for file in (ROOT / folder).glob("*.py")}
    assert "reid_ray/recipes/ice.yaml" in modules
    assert modules | {"reid_ray/py.typed"} == {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_the_version_is_written_once(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    assert Parser().parsestr(wheel.read(name).decode())["Version"] == reid_ray.__version__
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
