# `make` or `make help` lists what there is. Every target does its own set-up in .venv.

SHELL := /bin/bash
BIN := .venv/bin
DATA_MANAGER := $(BIN)/data-manager
PYTEST_ARGS ?=
BENCH ?=
# Two processes a core, since most tests wait for something; the longest tests first, so that none is left at the end.
PROCESSES ?= $(shell echo $$((2 * $$(nproc 2>/dev/null || echo 2))))
PYTEST := $(BIN)/python -m pytest -q -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup install install-dev run demo test fmt format fmt-check lint type contract check ahead faults bench docs build pipeline clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## Make .venv with the package and all tools (quick when nothing changed)
install install-dev: setup

.venv/installed: pyproject.toml scripts/setup.sh
	@scripts/setup.sh

run: setup ## Run everything on this machine; settings come from the environment and from .env
	@set -a; [ ! -f .env ] || . ./.env; LOG_FORMAT=$${LOG_FORMAT:-console}; set +a; exec $(DATA_MANAGER) run

demo: setup ## See the whole loop in two minutes, with no internet: DEMO_ARGS="--fast" in one
	@exec $(DATA_MANAGER) demo $(DEMO_ARGS)

test: setup ## Run every test, as on a machine far from UTC
	@scripts/setup_servers.sh
	TZ='<-03>3' $(PYTEST) $(PYTEST_ARGS)

fmt: setup ## Format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
format: fmt

fmt-check: setup
	$(BIN)/ruff format --check .

lint: setup ## Lint
	$(BIN)/ruff check .

type: setup ## Check types
	$(BIN)/mypy

contract: setup ## Check who imports whom
	$(BIN)/lint-imports

check: ahead fmt-check lint type contract test ## All that CI runs: format, lint, types, import contract, tests

ahead: setup # while the rest is checked: what the servers of the tests need, and the test files compiled
	@{ scripts/setup_servers.sh; $(BIN)/python -m pytest -q --collect-only; } >/dev/null 2>&1 &

faults: setup ## Break everything, as often and as long as the promise asks for, and print one table
	@scripts/setup_servers.sh
	FAULTS=full $(BIN)/python -m pytest -q tests/faults $(PYTEST_ARGS)

bench: setup ## Measure, each figure beside its baseline of the same run: one table at the end; BENCH="ingest latency" picks
	@$(BIN)/python benchmarks $(BENCH)

docs: setup ## Generate docs/settings.md, docs/datasets.md and .env.example from the code
	$(BIN)/python scripts/generate_docs.py

build: setup ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

pipeline: check build ## What a release needs: check, then build

clean: ## Remove caches and built files; .venv and data stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks scripts -name __pycache__ -type d -exec rm -rf {} +
