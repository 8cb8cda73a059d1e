# Every target does its own set-up. `make` lists them; ARGS="…" hands options on.
.DEFAULT_GOAL := help
BIN := .venv/bin
STAMP := .venv/.setup-stamp
ARGS ?=
# Test files go to two processes, each with a Kafka and a Valkey of its own. PROCESSES=0: one after the other.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header pyproject.toml

.PHONY: help setup demo test slow browser docs docs-serve docs-reference check bench recovery recovery-mutants simulate model lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## Make .venv with the locked packages (needs Python 3.11 or later; PYTHON=… chooses one)
	@:

# Skipped until what it reads has changed. The stamp lies in .venv, and goes with it.
$(STAMP): pyproject.toml requirements.lock .ci/setup
	@.ci/setup
	@touch $@

demo: setup ## Run real orders through a real Kafka and Valkey on this machine, to segments and campaign actions
	@$(BIN)/segstream demo $(ARGS)

test: setup ## Run all tests but the slow ones and the crashes, against a real Kafka and Valkey
	@$(PYTEST) $(ARGS)

slow: setup ## Run the tests that take minutes: benchmark, adapters, restarts of workers, the tutorial
	@$(PYTEST) -m slow tests/integration tests/docs tests/property $(ARGS)

docs: setup ## Build docs/ as a site in site/; a broken link or anchor fails
	@$(BIN)/zensical build --strict --clean --config-file mkdocs.yml $(ARGS)

docs-serve: setup ## Show the site while you write: on http://localhost:8000
	@$(BIN)/zensical serve --config-file mkdocs.yml $(ARGS)

docs-reference: setup ## Write the reference pages from the code
	@$(BIN)/python docs/generate.py

check: setup ## Check everything: format, lint, types, import rules, documentation, tests
	@echo "format"; $(BIN)/ruff format --check .
	@echo "lint"; $(BIN)/ruff check .
	@echo "types"; $(BIN)/mypy
	@echo "import rules"; $(BIN)/lint-imports
	@echo "documentation"; $(MAKE) --no-print-directory docs
	@echo "tests"; $(MAKE) --no-print-directory test

browser: setup ## Test the trainer's report in a real browser: Chromium or Chrome from the PATH, or BROWSER_FOR_TESTS=…
	@$(BIN)/python -m pytest -m browser tests/unit/trainer/report/test_browser.py $(ARGS)

bench: setup ## Measure throughput, latency and memory (ARGS=--write-docs renews docs/benchmarks.md)
	@$(BIN)/python -m bench $(ARGS)

# SEED=… repeats a run; FAULTS=… (24) or MINUTES=… says how long the storm of random faults lasts.
# SECURED=1: all of it against a Kafka and a Valkey with TLS, logins and ACLs.
recovery: setup ## Test crashes and fail-overs of workers, Kafka, Valkey and the network (SEED=1 FAULTS=24, or MINUTES=60)
	@$(BIN)/python -m pytest -m recovery -s tests/recovery $(ARGS)

recovery-mutants: setup ## Take each ingredient out of the protocol: a scenario must catch it (some twelve minutes)
	@$(BIN)/python -m pytest -q -s -m "not recovery" tests/recovery/test_mutants.py tests/recovery/test_mutants_in_memory.py $(ARGS)

# SEED=… is the first seed, RUNS=… how many; a failure is shrunk and printed as a case for tests/simulation/cases/.
simulate: setup ## Simulate the whole fleet with faults, in memory and virtual time (SEED=1 RUNS=1)
	@$(BIN)/python -m tests.simulation --seed $(or $(SEED),1) --runs $(or $(RUNS),1) $(ARGS)

model: setup ## Search every state of the protocol in larger worlds, 15 minutes (ARGS="--variant 20 --trace": one variant)
	@$(BIN)/python -m tests.protocol_model $(or $(ARGS),--full)

# The first for development and the demo, the second for the image: the same versions, without the extras.
lock: setup ## Write both lock files from pyproject.toml (ARGS=--upgrade: with the newest versions)
	@$(LOCK) --extra dev --extra demo --extra local $(ARGS) -o requirements.lock
	@$(LOCK) -c requirements.lock $(ARGS) -o requirements-run.lock

clean: ## Remove .venv, caches and build results here (downloads in the cache folder stay)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cache build dist out site
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
