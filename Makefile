# Each target does all its own set-up, on a fresh machine with Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo tune-demo test test-ray test-others lint types check docs clean

demo: $(READY)  ## Train ICE on drawn pedestrians through Ray, in some minutes
	$(BIN)/reid-ray demo

tune-demo: $(READY)  ## Search ICE's temperatures, weights, eps and k1 on drawn pedestrians, in some minutes
	$(BIN)/reid-ray tune tune-demo --trials 16 --concurrent 2 --compare 3 \
		--search method.temperature_agnostic --search method.temperature_cross --search method.temperature_hard \
		--search method.temperature_soft --search method.weight_cross --search method.weight_hard \
		--search method.weight_soft --search labels.eps --search labels.k1

# Two processes, one for the tests that start Ray: two clusters on a machine get in each other's way. Each has a folder of its
# own, because a pytest that ends removes those of others.
test: $(READY)  ## Run the tests
	$(MAKE) --jobs=2 test-ray test-others

test-ray: $(READY)
	$(BIN)/pytest -m ray --basetemp="$$(mktemp -d)/tests"

test-others: $(READY)
	$(BIN)/pytest -m 'not ray' --basetemp="$$(mktemp -d)/tests"

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
	$(BIN)/python -m pip install --quiet --editable '.[dev,ann,track]'
	touch $(READY)
