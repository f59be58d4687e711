"""Structure of the source: who imports Ray, which layer imports which, no import cycles, no long files."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "reid_ray"

RAY_PACKAGES = ("reid_ray.runtime", "reid_ray.jobs", "reid_ray.tuning")
"""The only packages that may import ray."""

BORDER = {
    "reid_ray.types",
    "reid_ray.errors",
    "reid_ray.config",
    "reid_ray.devices",
    "reid_ray.logging_utils",
    "reid_ray.io",
    "reid_ray.data.table",
    "reid_ray.data.images",
}
"""Plain types and files, which every layer may import."""

MAY_IMPORT = {
    "io": set(),
    "config": set(),
    "data": set(),
    "models": set(),
    "losses": set(),
    "labels": set(),
    "evaluation": {"labels"},
    "methods": {"models", "losses"},
    "inference": {"data", "models", "methods"},
    "encoder": {"data", "models", "methods", "inference"},
    "export": {"data", "evaluation", "methods", "inference", "encoder", "run"},
    "training": {"data", "models", "labels", "evaluation", "methods", "inference"},
    "reports": {"data", "evaluation", "run", "training"},
    "search": {"data", "labels", "run"},
    "runtime": {"data", "models", "methods", "inference", "training"},
    "tuning": {"api", "data", "evaluation", "labels", "methods", "reports", "run", "runtime", "training"},
    "jobs": {"cli"},
}
"""Layer → layers it may import in addition to itself and the border."""

MAY_IMPORT_RUNTIME = {"reid_ray.cli", "reid_ray.api", "reid_ray.jobs", "reid_ray.tuning"}

MAX_LINES = 400


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "reid_ray":
        parts = ("reid_ray", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of(path: Path) -> set[str]:
    """Absolute names of everything that a file imports, at its top level or inside functions."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


SOURCES = [path for folder in ("reid_ray", "jobs", "tuning") for path in sorted((ROOT / folder).rglob("*.py"))]


MODULES = {module_name(path): path for path in SOURCES}
TESTS_AND_BENCHMARKS = [path for folder in ("tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


def imported_modules(path: Path) -> set[str]:
    """Modules of this project that the file imports, inside functions too, but not for type checking."""
    found = set()
    pending: list[ast.AST] = [parse(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found.update(full if full in MODULES else str(node.module) for full in names.values())
        pending.extend(ast.iter_child_nodes(node))
    return found & set(MODULES)


def find_cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Sets of modules that import one another, directly or through others."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        pending = [start]
        while pending:
            new = graph[pending.pop()] - seen
            seen |= new
            pending.extend(new)
        return seen

    reached = {name: reachable(name) for name in graph}
    return {
        frozenset(other for other in reached[name] if name in reached[other]) for name in graph if name in reached[name]
    }


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def importers_of(package: str, *, allowed: Iterable[str]) -> dict[str, set[str]]:
    """Module → what it imports of a package, for all modules outside the packages that may."""
    found = {}
    for name, path in MODULES.items():
        targets = {target for target in imports_of(path) if inside(target, package)}
        if targets and not any(inside(name, owner) for owner in allowed):
            found[name] = targets
    return found


def test_only_some_packages_import_ray():
    assert importers_of("ray", allowed=RAY_PACKAGES) == {}
    assert importers_of("ray", allowed=()), "the packages that may import it do"


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layers_import_only_what_they_may(layer):
    for path in sorted((PACKAGE / layer).rglob("*.py")):
        for target in imports_of(path):
            if not inside(target, "reid_ray") or target == "reid_ray":
                continue
            if any(inside(target, f"reid_ray.{known}") for known in {layer, *MAY_IMPORT[layer]}):
                continue
            if any(inside(target, border) for border in BORDER):
                continue
            raise AssertionError(f"{module_name(path)} imports {target}, which {layer} may not")


def test_only_top_layers_import_the_runtime():
    assert importers_of("reid_ray.runtime", allowed={"reid_ray.runtime", *MAY_IMPORT_RUNTIME}) == {}


def test_find_cycles():
    assert find_cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
    assert find_cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == {frozenset("bc"), frozenset("d")}


def test_no_import_cycles():
    graph = {name: imported_modules(path) for name, path in MODULES.items()}
    assert graph["reid_ray.labels.neighbours.exact"] >= {"reid_ray.labels.neighbours.candidates", "reid_ray.errors"}
    assert find_cycles(graph) == set()


def test_files_are_short():
    """A file of more than `MAX_LINES` lines does more than one thing: split it."""
    files = (*SOURCES, *TESTS_AND_BENCHMARKS)
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert not {name for name, length in lengths.items() if length > MAX_LINES}


def test_command_line_starts_without_pytorch():
    """`--help` must not wait for PyTorch or Ray, so the command line imports them inside functions only."""
    code = (
        "import sys; import reid_ray.cli; print([m for m in ('torch', 'ray', 'numba', 'sklearn') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_runs_and_indexes_open_without_slow_packages():
    """Each command waits for what these import; torchvision alone takes as long as PyTorch."""
    slow = ("torchvision", "scipy.io", "pandas", "matplotlib", "sklearn", "ray", "torch._dynamo")
    code = f"import sys; from reid_ray import Index, load_run; print([m for m in {slow} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_small_processes_of_ray_start_without_pytorch():
    """Each actor and task is a process that imports the module of its class or function."""
    modules = "reid_ray.runtime.light_actors, reid_ray.runtime.shared, reid_ray.io.memory_limit"
    code = f"import sys; import {modules}; print([m for m in ('torch', 'numba', 'pandas') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
