"""The documentation says what is so: links lead somewhere, commands parse, examples run, generated pages are current.

Fenced blocks are checked by their info string: `python` is executed; `console` is parsed, every option and
configuration key in it must exist; `console run` is parsed and executed, after the README's Python example; `console
cluster` is parsed, and executed by tests/jobs/test_real_cluster.py.
"""

import importlib.util
import json
import re
import shlex
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
import typer.main
from torchvision.io import encode_jpeg
from typer.testing import CliRunner

from reid_ray.cli import app
from reid_ray.cli.jobs import JOBS
from reid_ray.config import METHOD_CONFIGS, Config, load_config, recipe_names
from reid_ray.config.loading import known_keys, overrides_of, sections_of
from reid_ray.methods import stages_of
from reid_ray.training.checks import check_stage_names

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "cluster" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)

NOT_OURS = {"pip", "ray", "pytest", "pre-commit", "tensorboard"}
"""Programs that the documentation calls and this test does not look into."""


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, info):
    """Bodies of the page's fenced blocks with this info string."""
    return [body for found, body in FENCED.findall(page.read_text(encoding="utf-8")) if found == info]


def commands(page, info):
    """The lines of a page's blocks that begin with `$`, cut in words, without the folder of the program."""
    lines = [line[2:] for body in blocks(page, info) for line in body.splitlines() if line.startswith("$ ")]
    words = [shlex.split(line) for line in lines]
    return [[Path(first).name, *others] for first, *others in words]


def prose(page):
    """The page without its fenced blocks."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """The anchors that GitHub gives to the page's headings."""
    headings = HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


def check_reid_ray(arguments):
    """Fail where a `reid-ray` command line has a command, option, recipe, key or value that does not exist."""
    command, arguments = typer.main.get_command(app), list(arguments)
    name = "reid-ray"
    while hasattr(command, "commands"):
        name = arguments.pop(0)
        assert name in command.commands, f"there is no command '{name}'"
        command = command.commands[name]
    given = command.make_context(name, arguments).params
    if name == "submit":
        check_reid_ray([*JOBS[given["job"]], given["recipe"], *(given["overrides"] or [])])
        return
    overrides = list(given.get("overrides") or [])
    recipe = {"train": given.get("recipe"), "tune": given.get("recipe"), "demo": "demo"}.get(name)
    if recipe in recipe_names():
        config = load_config(recipe, overrides)
        if config.model.weights in (None, "torchvision"):  # a run that is not here decides which stages follow
            check_stage_names(config, stages_of(config))
    for override in overrides:
        assert override.partition("=")[0] in set(known_keys()), f"there is no setting '{override}'"


def makefile_targets():
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page):
    for program, *arguments in [
        command for info in ("console", "console run", "console cluster") for command in commands(page, info)
    ]:
        if program == "make":
            assert set(arguments) <= makefile_targets()
        elif program == "torchrun":
            check_reid_ray(arguments[arguments.index("reid_ray") + 1 :])
        elif program == "reid-ray":
            check_reid_ray(arguments)
        elif program == "python":
            assert (ROOT / arguments[0]).exists()
        else:
            assert program in NOT_OURS


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian", "ice"],
        ["train", "ice", "--fast"],
        ["train", "ice", "data.root=x", "training.epoch=3"],
        ["train", "ice", "data.root=x", "training.epochs=none"],
        ["evaluate", "runs/ice", "data.folder=x"],
        ["data", "check"],
        ["submit", "ice", "training.epoch=3"],
        ["submit", "--job", "extract", "runs/ice", "--to", "x"],
    ],
)
def test_the_check_of_commands_can_fail(arguments):
    with pytest.raises(Exception, match=r".+"):
        check_reid_ray(arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_in_the_text_exist(page):
    """Settings, files and make targets in `code` are there."""
    keys = set(known_keys())
    sections = "|".join(name for name in Config.model_fields if any(key.startswith(f"{name}.") for key in keys))
    text = prose(page)
    for key in re.findall(rf"`((?:{sections})\.[a-zA-Z0-9_.]*[a-zA-Z0-9_])", text):
        if key.endswith((".safetensors", ".onnx", ".pt", ".pt2")):  # a file of an exported model
            continue
        written = key if key in keys else re.sub(r"^(stages|training\.optimizers)\.\w+", r"\1.NAME", key)
        there = any(known == written or known.startswith(f"{written}.") for known in keys)
        assert there, f"there is no setting '{key}'"
    for file in re.findall(r"`((?:reid_ray|tests|docs|jobs|cluster)/[\w./-]*)`", text):
        assert "NAME" in file or (ROOT / file).exists(), f"there is no file {file}"
    for target in re.findall(r"`make ([\w-]+)`", text):
        assert target in makefile_targets(), f"there is no make target '{target}'"


def load_generator():
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return generate


def test_every_field_has_a_docstring():
    field_docs = load_generator().field_docs

    def undocumented(model, prefix=""):
        for name, field in model.model_fields.items():
            if name not in field_docs(model):
                yield prefix + name
            overrides = overrides_of(field)
            for section in (*sections_of(field), *([overrides.section] if overrides else [])):
                yield from undocumented(section, f"{prefix}{name}.")

    assert list(undocumented(Config)) == []


def test_the_configuration_page_is_current(monkeypatch):
    for name, settings in list(METHOD_CONFIGS.items()):
        if not settings.__module__.startswith("reid_ray."):  # registered by another test of this process
            monkeypatch.delitem(METHOD_CONFIGS, name)
    generate = load_generator()
    page = generate.configuration_page()
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page, "run `make docs`"
    described = [key for key in known_keys() if key.partition(".")[0] not in generate.ALIKE and ".NAME." not in key]
    missing = [key for key in described if f"| `{key}` |" not in page]
    assert not missing


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with crops in it, in which the README's Python example has been run."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "crops").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        image = torch.from_numpy(rng.integers(0, 256, (3, 64, 32), dtype=np.uint8))
        (folder / "crops" / f"cam{i % 2 + 1}_{i:06d}.jpg").write_bytes(encode_jpeg(image).numpy().tobytes())
    with chdir(folder):
        run_python(ROOT / "README.md")
    return folder


def run_python(page):
    """Execute a page's Python blocks in order, in one namespace, and return it."""
    namespace = {"__name__": "__main__"}
    for number, body in enumerate(blocks(page, "python")):
        exec(compile(body, f"{name_of(page)}, block {number}", "exec"), namespace)
    return namespace


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "python")], ids=name_of)
def test_python_examples_run(page, tmp_path):
    with chdir(tmp_path):
        run_python(page)


def test_the_readme_example_leaves_a_run(workplace):
    run = workplace / "runs" / "readme"
    for name in ("config.yaml", "metrics.jsonl", "labels/epoch-000.parquet", "checkpoints/model-last.pt"):
        assert (run / name).exists()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console run")], ids=name_of)
def test_commands_run(page, workplace):
    with chdir(workplace):
        for program, *arguments in commands(page, "console run"):
            assert program == "reid-ray"
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, f"{shlex.join(arguments)}: {result.output} {result.exception}"


def test_every_logged_field_is_documented(workplace):
    text = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    lines = (workplace / "runs" / "readme" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert {event["event"] for event in events} == {"start", "refresh", "step", "epoch", "evaluate", "end"}
    for event in events:
        for name in {event["event"], *event, *event.get("terms", {})}:
            assert f"`{name}`" in text, f"docs/runs.md does not name the field {name}"
