# Two commands: `make demo` runs the example, `make test` the linter, the type checker and the tests. Both create a
# virtual environment in .venv if there is none, and install their dependencies from the package registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The tests that run under both names of Lightning: what talks to a Trainer, in one process.
CORE := tests/test_lightning.py tests/test_callbacks_conform.py tests/test_configure.py tests/test_finder.py \
	tests/test_run_optimizer.py tests/test_settings_callback.py tests/test_weight_decay_probe.py \
	tests/range_test/test_monitor.py tests/range_test/test_use.py tests/trial/test_run.py tests/tuner

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
	PL_ONECYCLE_LIGHTNING=pytorch_lightning $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(CORE)

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[all]"
	touch $@

clean:
	rm -rf $(VENV) build dist demo_runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
