# Keypost. `make run` shows the main job, `make test` runs all tests. Both need Python >= 3.11 and nothing else.
# Tests that need more (promtool for the alert rules, podman for the image) say what is missing; `.ci/run` wants it all.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PROTOS := $(shell find protos -name '*.proto')
STAMP := $(VENV)/.installed

# Tests and stories begin hundreds of processes; without bytecode each of them would compile Keypost anew, half a second.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 \t/p' $(MAKEFILE_LIST) | expand -t 20

$(STAMP): pyproject.toml hatch_build.py constraints.txt $(PROTOS)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Keypost needs Python >= 3.11; this is {sys.version.split()[0]}. Try: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Keypost into $(VENV) (about half a minute, once)"
	@PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

install: $(STAMP) ## Create the virtual environment

run: $(STAMP) ## Start the whole stack and play the main job (STACK=postgres|cluster, JSON=1, SUITE=RSA1024_AES128)
	@$(BIN)/keypost-embedded story $(if $(JSON),--json) $(if $(SUITE),--suite $(SUITE)) $(if $(STACK),--stack $(STACK))

up: $(STAMP) ## Start the whole stack and leave it running (STACK=postgres|cluster, SUITE=RSA1024_AES128)
	@$(BIN)/keypost-embedded up $(if $(SUITE),--suite $(SUITE)) $(if $(STACK),--stack $(STACK))

test: $(STAMP) ## Run all tests, in two processes (PYTEST_ARGS="-k name")
	@$(BIN)/python -m pytest -rs -n 2 --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

check: $(STAMP) ## Lint, check types and layers, and run the tests that start no server: while you work
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q -n 2 tests/unit tests/vectors $(PYTEST_ARGS)

bench: $(STAMP) ## Measure what the services do a second (JSON=1, QUICK=1; PAGE=1 writes the last figures to the page)
	@PYTHONPATH=tests $(BIN)/python -m benchmarks $(if $(JSON),--json) $(if $(QUICK),--quick) $(if $(PAGE),--page)

FAULTS = $(if $(STACK),KEYPOST_FAULTS_STACK=$(STACK)) $(if $(SEED),KEYPOST_FAULTS_SEED=$(SEED))

test-faults: $(STAMP) ## Kill, freeze and cut off every part while messages flow, sixty times (SEED=number, STACK=postgres|cluster)
	@$(FAULTS) KEYPOST_FAULTS=60 $(BIN)/python -m pytest -p no:xdist tests/faults

test-faults-cluster: $(STAMP) ## Lose the masters of a Valkey Cluster one after the other while messages flow (SEED=number)
	@KEYPOST_FAULTS_STACK=cluster $(if $(SEED),KEYPOST_FAULTS_SEED=$(SEED)) $(BIN)/python -m pytest -p no:xdist tests/faults/test_faults.py

soak: $(STAMP) ## Faults for MINUTES=30, with a report in soak.json (SEED=number, STACK=postgres|cluster)
	@PYTHONPATH=tests $(BIN)/python -m support.faults --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) $(if $(STACK),--stack $(STACK))

test-cluster: $(STAMP) ## Run the tests on a Valkey Cluster alone, then test-faults-cluster
	@$(BIN)/python -m pytest -n 2 tests/cluster tests/contract/delivery tests/integration/embedded/test_valkey_cluster.py $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory test-faults-cluster

killed: $(STAMP) ## Kill a device before every one of its writes, not a sample (minutes)
	@KEYPOST_EVERY_WRITE=1 $(BIN)/python -m pytest -s -p no:xdist tests/integration/client/test_killed.py

promtool: $(STAMP) ## Get promtool from Debian, by which the alert rules are tested, if there is none on the PATH
	@test -x $(BIN)/promtool || command -v promtool >/dev/null || { \
	  command -v apt-get >/dev/null || { echo "there is no apt-get here: put promtool, of Prometheus, on the PATH" >&2; exit 1; }; \
	  folder=$$(mktemp -d) && cd $$folder && apt-get download -qq prometheus && dpkg -x prometheus_*.deb . \
	  && cp usr/bin/promtool $(abspath $(BIN))/promtool && rm -r $$folder; }

lint: $(STAMP) ## Run all linters
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint
	@$(BIN)/buf format -d --exit-code
	@$(BIN)/buf breaking --against tests/upgrade/previous.binpb

LOCK = $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --universal --python-version 3.11 --constraint constraints.txt

lock: $(STAMP) ## Lock what the image is made of anew, with hashes: after a change in pyproject.toml or constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(LOCK) --extra image --output-file deploy/image/keypost.lock pyproject.toml
	@$(LOCK) --output-file deploy/image/build.lock deploy/image/build.in

IMAGE_TOOL ?= docker

image: ## Build the image keypost:VERSION, with its bill of materials in it (IMAGE_TOOL=podman, BASE_IMAGE=name, PIP_CONF=file)
	@version=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) && $(IMAGE_TOOL) build --tag "keypost:$$version" --build-arg "VERSION=$$version" \
		--build-arg "REVISION=$$(git rev-parse HEAD)" $(if $(BASE_IMAGE),--build-arg "BASE_IMAGE=$(BASE_IMAGE)") $(if $(PIP_CONF),--secret "id=pip,src=$(PIP_CONF)") .

test-images: $(STAMP) ## Build the image and run compose.yaml with podman, as root; elsewhere it says what is missing (IMAGES=must: fail there)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt podman-compose
	@KEYPOST_IMAGES=$(or $(IMAGES),try) $(BIN)/python -m pytest -p no:xdist -rs tests/images $(PYTEST_ARGS)

docs: $(STAMP) ## Write anew what the pages show of the code: settings, --help, attacks
	@PYTHONPATH=tests $(BIN)/python -m support.made_parts

format: $(STAMP) ## Format code and protos
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/buf format -w

clean: ## Remove the virtual environment and everything generated
	rm -rf $(VENV) .keypost soak.json tests/benchmarks/results .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf clients/python/keypost/*/v1

.PHONY: help install promtool run up test check test-cluster test-faults test-faults-cluster soak killed bench lint lock image test-images docs format clean
