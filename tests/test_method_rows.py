"""Rows of `benchmarks/methods.py`: each is a configuration that loads and whose method has the stages that it sets."""

import pytest
from method_rows import BUDGET, COMMON, FEATURE_STEPS, TABLES

from reid_ray.config import load_config
from reid_ray.methods import stages_of
from reid_ray.training.checks import check_stage_names

ROWS = [(table, row) for table, rows in TABLES.items() for row in rows if not row.measured]


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table}: {row.title}" for table, row in ROWS])
def test_a_row_loads_and_has_its_stages(table, row):
    extractor = ("model.weights=run:runs/baseline", *FEATURE_STEPS) if row.recipe == "havana" else ()
    config = load_config(row.recipe, [*BUDGET, *COMMON.get(table, ()), *row.overrides, *extractor])
    check_stage_names(config, stages_of(config))


@pytest.mark.parametrize("table", TABLES)
def test_measured_rows_name_a_row_of_their_table(table):
    titles = {row.title for row in TABLES[table]}
    assert all(row.on in titles for row in TABLES[table] if row.measured)
