# Everything lives in .venv. Two stamps say what is installed there, so that an installation happens only when
# pyproject.toml or constraints.txt has changed. Needs python3 (3.11 or newer) with venv, and make.
#
#   make quickstart PIP_FLAGS="--extra-index-url URL"    options for pip, e.g. an index with CPU builds of torch
#   make quickstart OUT=runs/again                       another folder for the run
#   make test PYTEST_FLAGS="tests/core -x"               options for pytest
#   make bench BENCH=merge                               one benchmark; without BENCH, the list

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?=
BENCH ?=
OUT ?= runs/quickstart

BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test lint bench clean

help:
	@echo "make quickstart   install, then compare five kinds of alignment on a small model (minutes; a page at the end)"
	@echo "make test         install the development tools, then run the tests"
	@echo "make lint         formatting, types and recipes"
	@echo "make bench        list the benchmarks; make bench BENCH=NAME runs one, BENCH=all every one"
	@echo "make clean        remove what make made, except for runs/"

quickstart: $(RUN_STAMP)
	$(BIN)/truing run recipes/quickstart.yaml --out $(OUT) --resume

test: $(DEV_STAMP)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/truing check recipes/*.yaml

bench: $(if $(BENCH),$(DEV_STAMP))
ifeq ($(BENCH),)
	@ls benchmarks/*.py 2>/dev/null | sed 's,.*/\(.*\)\.py,make bench BENCH=\1,' || true
else ifeq ($(BENCH),all)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done
else
	$(BIN)/python benchmarks/$(BENCH).py
endif

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Truing needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "No virtual environment could be made. On Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Truing into $(VENV) (some minutes, the first time) ..."
	@$(INSTALL) -e '.[all]'
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Truing and its development tools into $(VENV) (some minutes, the first time) ..."
	@$(INSTALL) -e '.[dev]'
	@touch $@ $(RUN_STAMP)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
