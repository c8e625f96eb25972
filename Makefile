# Two commands: `make demo` runs the example, `make test` the linter, the type checker, the documentation and the tests.
# `make docs` builds the documentation, `make release` the files of a release. All create a virtual environment in .venv
# if there is none, and install their dependencies from the package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The tests that run under both names of Lightning: what talks to a Trainer, in one process.
CORE := tests/test_lightning.py tests/test_callbacks_conform.py tests/test_configure.py tests/test_finder.py \
	tests/test_run_optimizer.py tests/test_settings_callback.py tests/test_weight_decay_probe.py \
	tests/range_test/test_monitor.py tests/range_test/test_use.py tests/trial/test_run.py tests/tuner

.PHONY: demo test lint types docs unit release clean

demo: $(VENV)/installed
	$(BIN)/python examples/digits.py

test: lint types docs unit

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

docs: $(VENV)/installed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build/html

unit: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile
	PL_ONECYCLE_LIGHTNING=pytorch_lightning $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(CORE)

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[all]"
	touch $@

release: $(VENV)/installed
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) build dist docs/_build demo_runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
