# Every target sets up what it needs: a virtual environment with the pinned packages and qtx itself, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two test processes: the CPU compiler is single-threaded for most of a small test's time.
WORKERS ?= 2
SLOW ?= slow
# Each begins with one half of the files, so that what the tests of a file share is made once.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help setup demo demo-compare docs test test-slow lint conformance bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         diagnose a real model and heal it, W8A8 before and after, in four to five minutes"
	@echo "make demo-compare pre-train, quantize and compare attention variants on this machine"
	@echo "make docs         the pages of docs/ as a site, in build/site"
	@echo "make test         the test suite"
	@echo "make test-slow    the tests that train for minutes"
	@echo "make lint         style, formatting, types, and the layers of import"
	@echo "make bench        measure speed anew, in an hour on idle cores, and tell what fell by more than a tenth"
	@echo "make conformance FOLDERS=...  check imported models against the official implementation's answers"

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "qtx needs Python 3.11 or later; choose one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

demo: $(READY)
	$(BIN)/python -m experiments.demo runs/demo

demo-compare: $(READY)
	$(BIN)/qtx compare --config=configs/demo.py --workdir=runs/demo

docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: $(READY)
	$(PYTEST) $(ARGS)

test-slow: $(READY)
	$(PYTEST) -m "$(SLOW)" $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

conformance: $(READY)
	$(BIN)/python -m experiments.conformance $(FOLDERS)

bench: $(READY)
	$(BIN)/python -m benchmarks.all --folder=runs/benchmarks --against=benchmarks/results

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache .mypy_cache build dist *.egg-info
