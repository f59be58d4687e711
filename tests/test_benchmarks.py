"""Benchmarks explain themselves: each that can be run parses its arguments and shows its docstring with `--help`."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = [file for file in sorted(FOLDER.glob("*.py")) if "__main__" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda file: file.name)
def test_a_benchmark_has_help(program):
    source = program.read_text(encoding="utf-8")
    assert "ArgumentParser(" in source
    assert "description=__doc__" in source
