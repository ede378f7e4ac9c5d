# Two commands from a fresh clone: make demo, make test. Both make or reuse .venv; PYTHON picks the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile
# What is installed must be compiled: without bytecode every process would compile torch again. pip takes one processor
# for it, this all of them. Some packages carry files that are no Python of this version: pip leaves them, too.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
HERE := $(lastword $(MAKEFILE_LIST))

.PHONY: demo test lint clean

ifneq (,$(findstring /,$(HERE)))
# Called from another folder (make -f ../Makefile demo): go to the clone first.
demo test lint clean:
	@$(MAKE) --no-print-directory -C "$(dir $(HERE))" $@
else

demo: $(VENV)/.demo
	PYTHONDONTWRITEBYTECODE= $(BIN)/llava-moe train

test: $(VENV)/.dev
	unset PYTHONDONTWRITEBYTECODE; $(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu" $(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports && $(BIN)/mypy

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e .
	$(COMPILE)
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt -e ".[dev]"
	$(COMPILE)
	touch $@ $(VENV)/.demo

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

endif
