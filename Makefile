# Everything lives in .venv. Two stamps say what is installed there, so that an installation happens only when
# pyproject.toml or constraints.txt has changed. Needs python3 (3.11 or newer) with venv, and make.
#
#   make quickstart PIP_FLAGS="--extra-index-url URL"    options for pip, e.g. an index with CPU builds of torch
#   make quickstart OUT=runs/again                       another folder for the run
#   make test PYTEST_FLAGS="tests/core -x"               options for pytest
#   make test WORKERS=0                                  all tests in one process; else one a core, four at most
#   make bench BENCH=scaling BENCH_FLAGS="--repeats 3"   one benchmark in full; without BENCH, all of them in small

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?=
WORKERS ?= auto
BENCH ?=
BENCH_FLAGS ?=
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
	@echo "make bench        the benchmarks in small; make bench BENCH=NAME runs one in full, BENCH=all every one"
	@echo "make clean        remove what make made, except for runs/"

quickstart: $(RUN_STAMP)
	$(BIN)/truing run recipes/quickstart.yaml --out $(OUT) --resume

test: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal $(PYTEST_FLAGS)

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/truing check recipes/*.yaml

# Alone: every benchmark in its smallest sizes. benchmarks/README.md says what they compare.
bench: BENCH_WORDS = $(if $(PIP_FLAGS),--pip-flags="$(PIP_FLAGS)") $(BENCH_FLAGS)
bench: $(DEV_STAMP)
ifeq ($(filter-out all,$(BENCH)),)
	@set -e; for script in benchmarks/*.py; do \
	  echo "== $$script"; $(BIN)/python "$$script" $(if $(BENCH),,--short) $(BENCH_WORDS); done
else
	$(BIN)/python benchmarks/$(BENCH).py $(BENCH_WORDS)
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
