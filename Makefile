# `make` alone lists the targets. CI calls these and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.run
DEV_STAMP := $(VENV)/.dev
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

.DEFAULT_GOAL := help
.PHONY: help run test test-browser check format proto pins reference traps browser bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Codebank needs Python 3.11 or newer; this is " + sys.version.split()[0] + "\nhint: make PYTHON=python3.12 run")'
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): requirements/run.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_STAMP): requirements/dev.txt $(RUN_STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements/dev.txt
	@touch $@

run: $(RUN_STAMP) ## run everything on this machine and print the addresses; Ctrl-C stops it
	@$(BIN)/codebank up $(ARGS)

test: $(DEV_STAMP) ## run the tests; needs no server, no Java, no container engine, no browser
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

test-browser: $(DEV_STAMP) ## run the tests that need Chromium; fails where it is missing
	TEST_BROWSER=required TEST_CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest -m browser $(ARGS)

check: $(DEV_STAMP) ## lint, types, import contracts, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_tidy.py

format: $(DEV_STAMP) ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(DEV_STAMP) ## make src/codebank/v1 from proto/
	$(BIN)/python tests/generate.py src

reference: $(DEV_STAMP) ## make docs/reference.md from the program
	$(BIN)/codebank reference > docs/reference.md

traps: $(DEV_STAMP) ## list the traps and whether each has its test
	@$(BIN)/python tests/traps.py

browser: ## install Chromium where apt-get can
	apt-get update -qq && apt-get install -y -qq chromium

bench: $(RUN_STAMP) ## measure Authorize beside an echo and plain SQL
	$(BIN)/codebank bench authorize $(ARGS)

pins: ## make the pins of requirements/ anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url pyproject.toml --group build -o requirements/run.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url pyproject.toml --group build --group dev -c requirements/run.txt -o requirements/dev.txt

clean: ## remove the environment and what tools leave behind
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist src/*.egg-info
