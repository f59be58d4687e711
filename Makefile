# Each target does all its own set-up, on a fresh machine with Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint types check docs clean

demo: $(READY)  ## Train ICE on drawn pedestrians through Ray, in some minutes
	$(BIN)/reid-ray demo

test: $(READY)  ## Run the tests
	$(BIN)/pytest

lint: $(READY)  ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## Types
	$(BIN)/mypy

check: lint types test  ## All that continuous integration runs

docs: $(READY)  ## Rewrite the generated pages
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,ann]'
	touch $(READY)
