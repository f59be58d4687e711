"""Overrides of recipes: known and unknown keys, all kinds of values."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from fuzz_cases.kind import Outcome, expect
from reid_ray.config import dump_config, load_config, recipe_names
from reid_ray.config.loading import known_keys
from reid_ray.errors import UserError

SCALARS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.sampled_from(
        ("null", "true", "no", "[]", "{}", "[1, 2]", "{a: 1}", "'x'", "!!python/object:os.x {}", "*a", "~", "")
    ),
    st.text(max_size=12),
)


@st.composite
def configurations(draw: st.DrawFn) -> tuple[str, list[str]]:
    bad = draw(st.booleans())
    known = st.sampled_from(sorted(known_keys()))
    keys, values = (st.one_of(known, st.text(max_size=10)), SCALARS) if bad else (known, st.integers(1, 64).map(str))
    overrides = [f"{draw(keys)}={draw(values)}" for _ in range(draw(st.integers(0, 4)))] + ["data.layout=synthetic"]
    recipes = st.sampled_from(recipe_names())
    return draw(st.one_of(recipes, st.text(max_size=200)) if bad else recipes), overrides


def check_configuration(drawn: tuple[str, list[str]], folder: Path) -> Outcome:
    recipe, overrides = drawn
    if recipe not in recipe_names():
        (folder / "recipe.yaml").write_bytes(recipe.encode("utf-8", "surrogatepass"))
        recipe = str(folder / "recipe.yaml")
    try:
        config = load_config(recipe, overrides)
    except UserError:
        return "refused"
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    expect(load_config(folder / "config.yaml") == config, "a configuration changes when it is written and read")
    return "read"
