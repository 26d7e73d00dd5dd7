# make demo | test | check | docs | figures | test-long | test-faults | test-gpu | test-oldest | smoke | dist | audit
# PYTHON=python3.12 chooses an interpreter
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SIDE_BY_SIDE ?= -n 2 --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-long test-faults test-gpu test-oldest smoke check docs links figures dist audit install install-dev clean

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

test-gpu: install-dev ## the tests of a GPU, on a machine that has one; the others see none
	pytest -m gpu

smoke: install-dev ## the services of docker/compose.yaml as processes of this machine: sweep, report, service
	pytest -m long -p no:randomly tests/docker

test-oldest: ## the fast tests with the lowest versions that pyproject.toml allows
	tests/oldest.sh

docs: install-dev ## the documentation, warnings as errors: build/docs/index.html
	sphinx-build --fail-on-warning --keep-going -q -b html docs build/docs

links: install-dev ## the documentation's links, those to other sites too
	sphinx-build -q -b linkcheck docs build/links

figures: install-dev ## every figure of the documentation, from real runs: minutes
	python -m docs.figures

dist: install-dev ## build/dist: a wheel and an sdist
	rm -rf build/lib build/bdist.* build/dist
	python -m build --outdir build/dist .

audit: install-dev ## known vulnerabilities of the pinned versions
	pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

check: install-dev ## style, types, floors, containers, tests
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	hadolint docker/Dockerfile
	check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml docker/compose.small.yaml
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
