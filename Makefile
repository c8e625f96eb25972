# Two commands: `make demo` runs the example, `make test` the linter, the type checker and the tests. Both create a
# virtual environment in .venv if there is none, and install their dependencies from the package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types unit clean

demo: $(VENV)/installed
	$(BIN)/python examples/digits.py

test: lint types unit

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

unit: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[all]"
	touch $@

clean:
	rm -rf $(VENV) build dist demo_runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
