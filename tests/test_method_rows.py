"""Rows of `benchmarks/methods.py`: each is a configuration that loads and whose method has the stages that it sets."""

import pytest
from method_rows import BUDGET, COMMON, TABLES

from reid_ray.config import load_config
from reid_ray.methods import stages_of
from reid_ray.training.checks import check_stage_names

ROWS = [(table, row) for table, rows in TABLES.items() for row in rows if not row.measured]


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table}: {row.title}" for table, row in ROWS])
def test_a_row_loads_and_has_its_stages(table, row, monkeypatch):
    monkeypatch.setattr("reid_ray.methods.pretraining.is_model_file", lambda _: True)  # of the row it starts from
    start = ("model.weights=run:runs/baseline",) if row.start else ()
    config = load_config(row.recipe, [*BUDGET, *COMMON.get(table, ()), *row.overrides, *start, *row.fixed])
    check_stage_names(config, stages_of(config))


@pytest.mark.parametrize("table", TABLES)
def test_measured_rows_name_a_row_of_their_table(table):
    titles = {row.title for row in TABLES[table]}
    assert all(row.on in titles for row in TABLES[table] if row.measured)


def test_rows_start_from_rows_that_train():
    for row in (row for _, row in ROWS if row.start):
        table, title = row.start
        assert any(other.title == title and not other.start for other in TABLES[table])
