# make demo | test | test-long | test-faults | check     (PYTHON=python3.12 chooses an interpreter)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SIDE_BY_SIDE ?= -n 2 --dist loadfile
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-long test-faults check install install-dev clean

demo: install ## a fresh environment, a sweep on the embedded data, a report
	mlflow run . -e sweep -P task=brain
	segcal report --experiment calib
	@echo
	@echo "Look at:  reports/calib/report.html"
	@echo "Browse:   $(BIN)/mlflow ui        (runs, checkpoints, registered models)"
	@echo "Go on:    source $(BIN)/activate"

test: install-dev ## the test suite, on two cores
	pytest $(SIDE_BY_SIDE)

test-long: install-dev ## the plain commands for every task, from nothing: minutes
	pytest -m long

test-faults: install-dev ## what sweeps promise, counted while processes are killed, servers stopped, disks filled: minutes
	pytest -m "fault or not fault" -p no:randomly tests/faults tests/ledger/test_servers.py tests/sweep/test_cluster.py

check: install-dev ## style, types, floors, tests
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest $(SIDE_BY_SIDE)

install: $(BIN)/.installed

install-dev: $(BIN)/.installed-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BIN)/.installed: $(BIN)/python pyproject.toml constraints.txt
	python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(BIN)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@ $(BIN)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
