"""The working directory: the same files that Ray uploads, and the size limit."""

import zipfile

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from reid_ray.errors import ConfigError
from reid_ray.runtime import working_dir
from reid_ray.runtime.working_dir import EXCLUDES, WorkingDir


@pytest.fixture
def folder(tmp_path):
    """A project with one file of each excluded kind."""
    root = tmp_path / "project"
    for path, text in {
        "mine.yaml": "base: ice\n",
        "pkg/code.py": "x" * 300,
        "pkg/weights.pt": "w" * 5000,
        "pkg/.gitignore": "*.pt\n",
        "notes.txt": "n",
        ".rayignore": "notes.txt\nbig/\n",
        "big/images.bin": "b" * 9000,
        "runs/ice/checkpoints/step-1.pt": "c" * 7000,
        ".git/HEAD": "ref",
        ".venv/bin/python": "p",
        "pkg/__pycache__/code.pyc": "c",
        "pkg/runs/kept.txt": "k",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "empty").mkdir()
    return root


def test_files_are_those_that_ray_packs(folder, tmp_path):
    found = WorkingDir.of(folder)
    package = tmp_path / "package.zip"
    patterns = [*get_runtime_env_default_excludes(), *EXCLUDES]
    create_package(str(folder), package, include_gitignore=True, excludes=patterns)
    with zipfile.ZipFile(package) as archive:
        packed = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
    assert dict(found.files) == packed
    assert set(packed) == {".rayignore", "mine.yaml", "pkg/.gitignore", "pkg/code.py", "pkg/runs/kept.txt"}
    assert found.size == sum(packed.values())
    assert found.left_out == (".git/", ".venv/", "big/", "empty/", "notes.txt", "runs/")


def test_too_large_folder_is_refused_with_its_largest_files(folder, monkeypatch):
    monkeypatch.setattr(working_dir, "LIMIT_MB", 0.01)
    WorkingDir.of(folder).check()
    (folder / "pkg" / "table.csv").write_bytes(bytes(20_000))
    with pytest.raises(
        ConfigError, match=r"19\.9 kB in 6 files.* 0\.01 MB; the largest are pkg/table\.csv \(19\.5 kB\)"
    ):
        WorkingDir.of(folder).check()


def test_description_is_one_line(folder):
    line = WorkingDir.of(folder).describe()
    assert line.startswith(f"{folder}: 5 files, 0.3 kB of 100 MB; largest: pkg/code.py (0.3 kB), ")
    assert line.endswith("left out: .git/, .venv/, big/, empty/, notes.txt, runs/")


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not a folder"):
        WorkingDir.of(tmp_path / "none")
