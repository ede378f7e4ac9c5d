# Two commands from a fresh clone: make demo, make test. Both make or reuse .venv; PYTHON picks the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ROOT := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
# The CPU build of torch is enough for both; a GPU machine gets its own build by the same range of versions.
PIP := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pip install --disable-pip-version-check --quiet

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	cd $(ROOT) && PYTHONDONTWRITEBYTECODE= $(BIN)/llava-moe train

test: $(VENV)/.dev
	cd $(ROOT) && unset PYTHONDONTWRITEBYTECODE; $(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu" $(PYTEST)

lint: $(VENV)/.dev
	cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

$(VENV)/.demo: pyproject.toml
	cd $(ROOT) && $(PYTHON) -m venv $(VENV)
	cd $(ROOT) && $(PIP) -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	cd $(ROOT) && $(PYTHON) -m venv $(VENV)
	cd $(ROOT) && $(PIP) -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.demo

clean:
	cd $(ROOT) && rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
