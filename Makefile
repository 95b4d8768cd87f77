# Two commands: `make demo` prices a category the model has never seen, `make test` checks everything.
# Both set up .venv themselves. A CUDA and a CPU build of torch both work; to choose one, hand pip the index of that
# build: make demo TORCH_ARGS="--index-url <index>"
PYTHON ?= python3
TORCH_ARGS ?=
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready
TREES := $(wildcard pricing_fm recipes data benchmarks tests)

.PHONY: demo test lint format clean
.DEFAULT_GOAL := demo

demo: $(READY)
	$(BIN)/python recipes/demo.py

# One thread per worker: the workers already fill the cores, and sums do not depend on the number of threads.
test: export OMP_NUM_THREADS ?= 1
test: lint
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(READY)
	$(BIN)/ruff check $(TREES)
	$(BIN)/ruff format --check $(TREES)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix $(TREES)
	$(BIN)/ruff format $(TREES)

# Leaves .venv in place: setting it up again needs a network.
clean:
	rm -rf outputs .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

.venv: $(READY)

# torch comes first, so that its build is decided by TORCH_ARGS alone and nothing later replaces it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "pricing_fm needs Python 3.11 or newer, found %d.%d; try make PYTHON=python3.12" % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch $(TORCH_ARGS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,baselines]'
	touch $@
