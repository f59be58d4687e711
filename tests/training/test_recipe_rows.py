"""Settings that recipes name in their comments, such as the rows of a paper's table, are accepted."""

import re
from pathlib import Path

import pytest

from reid_ray.config import load_config, recipe_names
from reid_ray.methods import stages_of
from reid_ray.training.checks import check_stage_names

RECIPES = Path(__file__).parents[2] / "reid_ray" / "recipes"
SETTING = re.compile(r"([a-z][\w.]*=(?:\{[^}]*\}|\[[^\]]*\]|[^\s,;]+))")


def rows(recipe):
    """Groups of settings that one space separates, without those whose value is a placeholder such as FOLDER."""
    for line in (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").splitlines():
        group, end = [], 0
        for match in SETTING.finditer(line) if line.startswith("#") else ():
            if group and line[end : match.start()] != " ":
                yield tuple(group)
                group = []
            end = match.end()
            if not re.search(r"=[A-Z]", match[0]):
                group.append(match[0].rstrip("."))
        if group:
            yield tuple(group)


CASES = [(recipe, row) for recipe in recipe_names() for row in rows(recipe)]


def test_rows_are_found():
    assert ("dg-vae", ("method.swap=false", "method.identity_code=mean", "method.identity_prior=none")) in CASES
    assert ("gcl", ("method.generation=false", "method.augment=true")) in CASES


@pytest.mark.parametrize(("recipe", "row"), CASES, ids=[f"{recipe}: {' '.join(row)}" for recipe, row in CASES])
def test_a_row_is_accepted(recipe, row):
    extractor = ["model.weights=run:runs/baseline"] if recipe == "havana" else []
    config = load_config(recipe, ["data.root=x", *extractor, *row])
    check_stage_names(config, stages_of(config))
