PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev

.DEFAULT_GOAL := help
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 3 --no-loadscope-reorder

.PHONY: help demo status report bench gpu-check test test-slow test-all lint format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## Train every method on small embedded data and show what came out
	$(BIN)/python -m autol2.train -m experiment=demo
	$(BIN)/python -m autol2.report study=demo

status: $(READY) ## Show how the newest study stands, or STUDY=name (ARGS=watch=true keeps it live)
	$(BIN)/python -m autol2.status $(if $(STUDY),study=$(STUDY)) $(ARGS)

report: $(READY) ## Report on the newest study, or on STUDY=name
	$(BIN)/python -m autol2.report $(if $(STUDY),study=$(STUDY))

bench: $(READY) ## Measure how fast it is here, and what limits it (10 minutes)
	$(BIN)/python -m autol2.bench $(ARGS)

gpu-check: $(READY) ## Check that training works on this GPU (two minutes)
	$(BIN)/python -m autol2.bench.gpu_check $(ARGS)

test: $(DEV) ## Run the quick tests (about five minutes on two cores)
	$(PYTEST) -m 'not slow' $(ARGS)

test-slow: $(DEV) ## Run the tests that `make test` leaves out
	$(PYTEST) -m slow $(ARGS)

test-all: $(DEV) ## Run all tests
	$(PYTEST) $(ARGS)

lint: $(DEV) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Delete the environment and caches (never outputs)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "autol2 needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV), once: PyTorch and what else autol2 needs, several GB and minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(DEV): $(READY)
	@echo "adding to $(VENV), once: what the tests need"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
