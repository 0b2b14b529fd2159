# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all coverage benchmark paper docs lint types wheel clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	touch $(READY)

demo: $(READY)
	$(BIN)/diversify demo --out runs/demo --overwrite

# All but the slow tests, in parallel.
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

# Every test.
test-all: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

# Every test, and which lines no test runs; takes about twice as long.
coverage: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term:skip-covered

benchmark: $(READY)
	$(BIN)/diversify benchmark digits --workers 2 --out runs/digits.jsonl
	$(BIN)/diversify report runs/digits.jsonl --out runs/digits-report --overwrite

# The paper's claims, one by one, on digits.
paper: $(READY)
	$(BIN)/python -m benchmarks.paper digits --workers 2 --out runs/paper_digits.jsonl

# The documentation, in docs/_build/html; warnings are errors, and nothing is downloaded.
docs: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

wheel: $(READY)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist runs docs/_build docs/generated *.egg-info
