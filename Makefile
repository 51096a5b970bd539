# Homeport: every task of the project, one target each. `make` alone lists them.
# CI runs the same targets and nothing else.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
VENDOR := phr/web/static/vendor
DATA ?= data
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -p tests.ci_plugin
# Files go whole to one of two processes: two cores are the least a machine has, and each brings its own
# browsers and databases. WORKERS=0 runs everything in one.
WORKERS ?= 2
COVERAGE := $(if $(filter true,$(CI)),--cov --cov-report=term:skip-covered)
# The modules that everything which thinks about safety asks: no branch of theirs is untested.
BOUNDARIES := phr/store/vault.py,phr/keep.py,phr/whose.py,phr/news.py,phr/sharing/gate.py,phr/sharing/released.py,phr/sharing/ready.py,phr/sharing/inbox.py,phr/sharing/sent.py,phr/net.py,phr/http.py,phr/fhir/document.py
LOCK := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe \
	--strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links $(LOCK_OPTIONS)

.PHONY: help run test boundaries check e2e conformance bench image try-image assets setup lock format clean

help: ## list what can be made
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | \
		awk -F '\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

run: $(STAMPS)/run $(VENDOR)/.stamp ## start Homeport with the demo hospital; prints the address and the set-up code
	@exec $(BIN)/phr serve --demo --data $(DATA)

test: $(STAMPS)/test $(VENDOR)/.stamp $(STAMPS)/machine node_modules/.stamp ## all tests but the slow ones
	@$(PYTEST) -m "not slow" -n $(WORKERS) --dist loadfile $(COVERAGE) $(ARGS)
	@$(if $(COVERAGE),$(MAKE) boundaries)

boundaries: # after a run with CI=true: what of the boundaries no test met is named; below 95 % is red
	@$(BIN)/coverage report --include=$(BOUNDARIES) --show-missing --fail-under=95 || \
		{ echo "Not every branch of the boundaries has a test: see Missing above." >&2; exit 1; }

check: $(STAMPS)/dev ## format, lint, types, layers, templates, container files, spelling
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/djlint --lint --quiet phr
	@$(BIN)/hadolint docker/Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	@$(BIN)/codespell
	@echo "check: all green"

e2e: $(STAMPS)/test $(VENDOR)/.stamp $(STAMPS)/machine node_modules/.stamp ## only the walks in a real browser
	@$(PYTEST) tests/e2e $(ARGS)

conformance: $(STAMPS)/test $(VENDOR)/.stamp $(STAMPS)/machine node_modules/.stamp ## only the tests against standards and other people's programs
	@$(PYTEST) tests/conformance $(ARGS)

bench: $(STAMPS)/test $(VENDOR)/.stamp ## measure; prints one JSON line per figure
	@$(BIN)/python -m phr.bench $(ARGS)

image: ## build the container image (needs a container engine)
	docker build --file docker/Dockerfile --tag homeport .

try-image: ## perform the Dockerfile's install steps in an empty folder and start the result (no engine needed)
	@docker/try-steps

assets: $(STAMPS)/build ## fetch the pinned browser code into the package
	@rm -f $(VENDOR)/.stamp && $(MAKE) $(VENDOR)/.stamp

setup: $(STAMPS)/dev $(VENDOR)/.stamp node_modules/.stamp ## everything a developer needs, pre-commit hooks included
	@$(BIN)/pre-commit install

lock: $(STAMPS)/dev ## renew the lock files from pyproject.toml and package.json (LOCK_OPTIONS=--upgrade)
	$(LOCK) --output-file requirements/build.txt requirements/build.in
	$(LOCK) --output-file requirements/node.txt requirements/node.in
	$(LOCK) --extra demo --output-file requirements/run.txt pyproject.toml
	$(LOCK) --extra demo --extra test --constraint requirements/run.txt --output-file requirements/test.txt pyproject.toml
	$(LOCK) --extra demo --extra test --extra dev --constraint requirements/test.txt --output-file requirements/dev.txt pyproject.toml
	tools/npm install --package-lock-only

format: $(STAMPS)/dev ## format and mend what can be mended by itself
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean: ## remove what make made (never the data folder)
	rm -rf $(VENV) node_modules build dist $(VENDOR)

# ------------------------------------------------------------------ stamps: each step once

$(STAMPS):
	@tools/make-venv $(PYTHON) $(VENV)
	@mkdir -p $@

$(STAMPS)/build: requirements/build.txt | $(STAMPS)
	@echo "Installing the build tools into $(VENV) ..."
	@$(PIP) --require-hashes -r requirements/build.txt && touch $@

$(STAMPS)/run: requirements/run.txt pyproject.toml $(STAMPS)/build | $(STAMPS)
	@echo "Installing Homeport into $(VENV) ..."
	@$(PIP) --require-hashes -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation --editable . && touch $@

$(STAMPS)/test: requirements/test.txt $(STAMPS)/run
	@echo "Installing what the tests need into $(VENV) ..."
	@$(PIP) --require-hashes -r requirements/test.txt && touch $@

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/run
	@echo "Installing the developer's tools into $(VENV) ..."
	@$(PIP) --require-hashes -r requirements/dev.txt && touch $@

$(STAMPS)/machine: tools/machine | $(STAMPS)
	@tools/machine && touch $@

$(VENDOR)/.stamp: package.json package-lock.json .npmrc $(STAMPS)/build
	@tools/assets $(VENDOR) && touch $@

node_modules/.stamp: package.json package-lock.json .npmrc $(STAMPS)/build
	@echo "Installing the programs the tests talk to into node_modules ..."
	@tools/npm ci && touch $@
