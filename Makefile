# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

LOWEST := .venv-lowest
AUDIT := .venv-audit
# For `make test-lowest`: which tests, and an environment to take PyTorch from, which is gigabytes.
TESTS ?= tests diversify
TORCH_OF ?=

.PHONY: demo test test-all test-lowest coverage benchmark paper docs lint types wheel audit clean

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

# All but the slow tests, with the lowest versions that pyproject.toml allows.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -n auto --dist worksteal -m "not slow" $(TESTS)

$(LOWEST)/.ready: pyproject.toml tests/lowest.py
	$(PYTHON) tests/lowest.py $(LOWEST) $(if $(TORCH_OF),--torch-of $(TORCH_OF))
	touch $(LOWEST)/.ready

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

# The same commit gives the same bytes: nothing of an older build, and the time of the commit in place of that of the build.
wheel: $(READY)
	rm -rf build dist *.egg-info
	umask 022 && SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# Known faults of the packages in .venv. It fails, too, if a package or the list of faults cannot be looked up.
audit: $(READY) $(AUDIT)
	$(BIN)/python -m pip freeze --exclude-editable > $(AUDIT)/packages.txt
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement $(AUDIT)/packages.txt

$(AUDIT):
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet pip-audit

clean:
	rm -rf $(VENV) $(LOWEST) $(AUDIT) build dist runs docs/_build docs/generated *.egg-info
