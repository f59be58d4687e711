# Every target sets up the environment that it needs; a fresh machine needs Python and make only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Only these files are collected for Ray's process: to import the others takes as long as a test.
RAY_TESTS = $(shell grep --recursive --files-with-matches --include='test_*.py' 'mark\.ray' tests)

.PHONY: help demo tune-demo test test-ray test-others lint types check docs site clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

demo: $(READY)  ## Train ICE on synthetic pedestrians through Ray, a few minutes
	$(BIN)/reid-ray demo

tune-demo: $(READY)  ## Search temperatures, weights, eps and k1 of ICE on synthetic pedestrians, about half an hour
	$(BIN)/reid-ray tune tune-demo --trials 16 --concurrent 2 --compare 3 \
		--search method.temperature_agnostic --search method.temperature_cross --search method.temperature_hard \
		--search method.temperature_soft --search method.weight_cross --search method.weight_hard \
		--search method.weight_soft --search labels.eps --search labels.k1

# The tests with Ray have a process of their own, because two local clusters disturb each other; the others share the
# cores, file by file, so that fixtures of a module are built once, and leave them to Ray's processes, which mostly wait
# and otherwise run at a low priority. One thread per process: PyTorch's threads wait actively, and more of them than
# cores double the time. Each process has its own base folder, because pytest removes the folders of other sessions when
# it ends.
test: $(READY)  ## Run all tests, those with Ray in a process of their own
	$(MAKE) --jobs=2 test-ray test-others

test-ray: $(READY)
	OMP_NUM_THREADS=1 RAY_worker_niceness=0 $(BIN)/pytest $(RAY_TESTS) -m ray --durations=15 --basetemp="$$(mktemp -d)/tests"

test-others: $(READY)
	OMP_NUM_THREADS=1 nice -n 5 $(BIN)/pytest -m 'not ray' --numprocesses=2 --dist=loadfile --no-loadscope-reorder \
		--durations=15 --basetemp="$$(mktemp -d)/tests"

lint: $(READY)  ## Check style and formatting (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## Check types (mypy, strict)
	$(BIN)/mypy

check: lint types test  ## Run everything that continuous integration runs

docs: $(READY)  ## Regenerate docs/configuration.md
	$(BIN)/python docs/generate.py

site: $(READY)  ## Build the documentation as a site in build/site
	$(BIN)/python -m mkdocs build --strict

clean:  ## Remove the environment, build files and caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,ann,track]'
	touch $(READY)
