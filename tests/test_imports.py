"""The layering rules: only some packages import Ray, and layers import neither sideways nor upwards."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "reid_ray"

RAY_PACKAGES = ("reid_ray.runtime", "reid_ray.jobs", "reid_ray.tuning")
"""Only these import ray."""

BORDER = {
    "reid_ray.types",
    "reid_ray.errors",
    "reid_ray.config",
    "reid_ray.devices",
    "reid_ray.io",
    "reid_ray.data.table",
    "reid_ray.data.images",
}
"""The plain types, which every layer may import."""

MAY_IMPORT = {
    "io": set(),
    "config": set(),
    "data": set(),
    "models": set(),
    "losses": set(),
    "labels": set(),
    "evaluation": set(),
    "methods": {"models", "losses"},
    "inference": {"data", "models", "methods"},
    "training": {"data", "models", "labels", "evaluation", "methods", "inference"},
    "reports": {"evaluation", "run", "training", "data"},
    "runtime": {"data", "models", "labels", "evaluation", "methods", "inference", "training"},
}
"""Layer → layers it may import besides itself and the border."""

MAY_IMPORT_RUNTIME = {"reid_ray.cli", "reid_ray.api", "reid_ray.jobs", "reid_ray.tuning"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "reid_ray":
        parts = ("reid_ray", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Absolute names of everything a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


SOURCES = [path for folder in ("reid_ray", "jobs", "tuning") for path in sorted((ROOT / folder).rglob("*.py"))]


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_some_packages_import_ray(path):
    name = module_name(path)
    if any(inside(name, package) for package in RAY_PACKAGES):
        return
    offending = {target for target in imports_of(path) if inside(target, "ray")}
    assert not offending, f"{name} imports {offending}; only {', '.join(RAY_PACKAGES)} may"


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_layers_do_not_reach_across(layer):
    for path in sorted((PACKAGE / layer).rglob("*.py")):
        for target in imports_of(path):
            if not inside(target, "reid_ray") or target == "reid_ray":
                continue
            if any(inside(target, f"reid_ray.{known}") for known in {layer, *MAY_IMPORT[layer]}):
                continue
            if any(inside(target, border) for border in BORDER):
                continue
            raise AssertionError(f"{module_name(path)} imports {target}, which {layer} may not")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_the_top_imports_the_runtime(path):
    name = module_name(path)
    if inside(name, "reid_ray.runtime") or any(inside(name, top) for top in MAY_IMPORT_RUNTIME):
        return
    assert not {target for target in imports_of(path) if inside(target, "reid_ray.runtime")}


def test_the_command_line_starts_without_pytorch():
    """`--help` should not wait for PyTorch or Ray: nothing the command line imports at its top brings them."""
    import subprocess
    import sys

    code = (
        "import sys; import reid_ray.cli; print([m for m in ('torch', 'ray', 'numba', 'sklearn') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
