# Every target sets up what it needs, from nothing: `make demo` on a fresh clone works.
# PYTHON names the interpreter that .venv is made from (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Two test processes side by side, each with one thread.
test test-slow: export OMP_NUM_THREADS := 1

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow assets bench lint format clean

help:  ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## make .venv with everything that the other targets need

# torch comes first and alone: held by constraints.txt, so that nothing later swaps its build.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name a Python 3.11 or newer with PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old for bequest; name a Python 3.11 or newer with PYTHON=..." >&2; exit 2; }
	@echo 'setting up $(VENV); this takes about a minute'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

assets: $(READY)  ## bring SmolLM2-135M and the Brown corpus to .cache/assets
	@$(BIN)/python -m assets

demo: assets  ## run the three methods on a real model, and report (8 minutes)
	@$(BIN)/python examples/demo.py

test: assets  ## run the default test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

# pytest ends with 5 when no test was selected, which is no failure of the slow stage.
test-slow: assets  ## run the tests that take long
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal || [ $$? -eq 5 ]

bench: assets  ## run every benchmark; the figures are for a quiet machine
	$(BIN)/python -m benchmarks

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment, the caches and the downloads
	rm -rf $(VENV) .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
