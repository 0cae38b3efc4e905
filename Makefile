# Everything here works on a fresh machine with Python 3.11 or newer: each target makes its own virtual environment first.

PYTHON ?= python3
PIP = .venv/bin/pip --disable-pip-version-check --quiet
STAMP = .venv/.installed-with
NNUNET ?= $(HOME)/.cache/autoseg-benchmarks/nnunet-2.8.1
BESIDE = --venv $(NNUNET)
QUICK = $(BESIDE) --results build/bench-quick
BENCHMARKS = augmentation inference instance_decode resampling surface_metrics train_step

.PHONY: demo test test-slow check format bench bench-quick bench-nnunet bench-ways bench-training chaos clean

demo: $(STAMP)-core  ## a small 3D dataset made in code, and the whole job on it
	.venv/bin/autoseg demo

test: $(STAMP)-dev  ## the default tests (slow ones and those for a GPU left out)
	.venv/bin/python -m pytest -q

test-slow: $(STAMP)-dev  ## the slow ones too
	.venv/bin/python -m pytest -q -m 'not gpu'

chaos: $(STAMP)-dev  ## hurt the real program in every way of docs/reliability.md, and write its table anew
	AUTOSEG_CHAOS_RESULTS=build/chaos.json .venv/bin/python -m pytest -q tests/chaos -m 'not gpu'

check: $(STAMP)-dev  ## format, lint, types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

format: $(STAMP)-dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench-quick: $(STAMP)-dev $(NNUNET)/bin/nnUNetv2_predict  ## beside nnU-Net v2, a few minutes; results go to build/bench-quick
	.venv/bin/python benchmarks/startup.py $(QUICK) --rounds 5
	.venv/bin/python benchmarks/nnunet_resampling.py $(QUICK) --rounds 5
	.venv/bin/python benchmarks/nnunet_export.py $(QUICK) --classes 15 --rounds 3
	test -z "$(MODEL)" || .venv/bin/python benchmarks/nnunet_prediction.py $(MODEL) --dataset "$(DATASET)" $(QUICK) \
		--cases 4 --rounds 3 --ways nnunet,nnunet-bf16,autoseg
	.venv/bin/python benchmarks/picture.py --results build/bench-quick --picture build/bench-quick/speed.svg \
		--document build/bench-quick/performance.md

bench: bench-nnunet bench-ways  ## all but whole trainings; say DATASET=hippocampus MODEL=golden=its_nnunet_model

bench-nnunet: $(STAMP)-dev $(NNUNET)/bin/nnUNetv2_predict  ## beside nnU-Net v2: benchmarks/results, the README's picture, docs/performance.md
	test -d "$(DATASET)" && test -n "$(MODEL)"  # DATASET: imagesTr, labelsTr, dataset.json; MODEL: [NAME=]FOLDER ...
	.venv/bin/python benchmarks/startup.py "$(firstword $(MODEL))" --dataset "$(DATASET)" $(BESIDE)
	.venv/bin/python benchmarks/nnunet_resampling.py $(BESIDE)
	.venv/bin/python benchmarks/nnunet_preprocessing.py "$(DATASET)" $(BESIDE)
	.venv/bin/python benchmarks/nnunet_prediction.py $(MODEL) --dataset "$(DATASET)" $(BESIDE)
	.venv/bin/python benchmarks/nnunet_training.py step "$(DATASET)" $(BESIDE)
	.venv/bin/python benchmarks/nnunet_training.py load "$(DATASET)" $(BESIDE)
	.venv/bin/python benchmarks/nnunet_export.py $(BESIDE)
	.venv/bin/python benchmarks/nnunet_models.py "$(DATASET)" build/nnunet-models $(BESIDE)
	.venv/bin/python benchmarks/picture.py

bench-ways: $(STAMP)-dev  ## side by side with the trusted slow ways; the scripts that need a dataset are run by hand
	for name in $(BENCHMARKS); do .venv/bin/python benchmarks/$$name.py || exit 1; done

bench-training: $(STAMP)-dev $(NNUNET)/bin/nnUNetv2_predict  ## whole trainings beside nnU-Net v2, three seeds: hours
	.venv/bin/python benchmarks/nnunet_training.py whole "$(DATASET)" $(BESIDE) --steps 500 --seeds 3
	.venv/bin/python benchmarks/picture.py

$(NNUNET)/bin/nnUNetv2_predict: | $(STAMP)-dev
	.venv/bin/python benchmarks/nnunet_prediction.py --setup --venv $(NNUNET)

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
