# Two commands: `make demo` and `make test`. Each does all the set-up that it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := kncl_env policies rabbit_holes train_lm

.PHONY: install demo test lint format bench bench-gpu clean

install: $(VENV)/installed

# The constraint keeps pip from fetching gigabytes of CUDA where a CPU build will do.
$(VENV)/installed: pyproject.toml constraints/cpu.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints/cpu.txt torch
	$(BIN)/pip install --quiet --constraint constraints/cpu.txt --editable '.[cpu,dev]'
	touch $@

demo: install
	HF_HUB_OFFLINE=1 $(BIN)/kncl-policy demo

test: install lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python benchmarks/bench.py $(if $(SCALE),--scale $(SCALE))

bench-gpu: install
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info
