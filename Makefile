# Everything here works on a fresh machine with Python 3.11 or newer: each target makes its own virtual environment first.

PYTHON ?= python3
PIP = .venv/bin/pip --disable-pip-version-check --quiet
STAMP = .venv/.installed-with
BENCHMARKS = augmentation inference instance_decode resampling surface_metrics train_step

.PHONY: demo test test-slow check format bench clean

demo: $(STAMP)-core  ## a small 3D dataset made in code, and the whole job on it
	.venv/bin/autoseg demo

test: $(STAMP)-dev  ## the default tests (slow ones and those for a GPU left out)
	.venv/bin/python -m pytest -q

test-slow: $(STAMP)-dev  ## the slow ones too
	.venv/bin/python -m pytest -q -m 'not gpu'

check: $(STAMP)-dev  ## format, lint, types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: $(STAMP)-dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: $(STAMP)-dev  ## side by side with the trusted slow ways; the scripts that need a dataset are run by hand
	for name in $(BENCHMARKS); do .venv/bin/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv:
	$(PYTHON) -m venv .venv

$(STAMP)-core: pyproject.toml constraints.txt | .venv
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(STAMP)-dev: pyproject.toml constraints.txt | .venv
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch $@
