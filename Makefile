.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
PYTEST := $(BIN)/python -m pytest
# Whole files in the order that tests/conftest.py gives them.
SIDE_BY_SIDE := --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The installation brings no bytecode. Where this is set, as in many containers, every process would compile all anew.
unexport PYTHONDONTWRITEBYTECODE

# What `make demo` renders.
PROMPT ?= A beautiful sunset over mountains
DURATION ?= 10
QUALITY ?= 1080p
SEED ?= 12345
OUT ?= demo
demo: export DEMO_PROMPT = $(PROMPT)

# Where `make serve` keeps its data and listens.
DATA ?= data
PORT ?= 8080

# The tests start these servers and tools for themselves, on private ports.
APT_PACKAGES := rabbitmq-server redis-server postgresql ffmpeg prometheus nodejs curl tcc iproute2
APT_COMMANDS := rabbitmq-server redis-server psql ffmpeg promtool node curl tcc ip

LOCK := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-allow-unsafe --unsafe-package torch

.PHONY: help install demo test test-long chaos lint lock audit bench mutants train-tiny eval-tiny serve servers clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv and install the locked dependencies and the t2m command

# uv takes a tenth of pip's time, and does not read pip's configuration: where only that names a mirror, pip does it.
# torch comes by exact version and not from the lock: its build (CPU or CUDA) is chosen by the index pip is configured
# for. Its other dependencies are in the lock already. Python compiles what is imported, a small part of it all.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python && test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.txt
	$(PIP_INSTALL) --require-hashes --no-deps -r $(VENV)/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements.lock \
		|| $(PIP_INSTALL) --require-hashes --no-deps -r requirements.lock
	$(PIP_INSTALL) "$$(grep -oE 'torch==[0-9.]+' pyproject.toml)"
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable . 2> $(VENV)/editable.log \
		|| { cat $(VENV)/editable.log >&2; exit 1; } # setuptools warns of editable installs at length
	$(BIN)/python -m pip check
	@touch $@

demo: install ## Render a clip: make demo PROMPT="…" DURATION=10 QUALITY=1080p SEED=12345 OUT=demo
	$(BIN)/t2m render "$$DEMO_PROMPT" --duration "$(DURATION)" --quality "$(QUALITY)" --seed "$(SEED)" --out "$(OUT)"

serve: install ## Everything in one process on http://127.0.0.1:PORT, data in DATA
	$(BIN)/t2m serve --data "$(DATA)" --port "$(PORT)"

servers: ## Install what the tests need from apt (asks for nothing; uses sudo when not root)
	@missing=(); for command in $(APT_COMMANDS); do command -v $$command >/dev/null || missing+=($$command); done; \
	if (( $${#missing[@]} )); then \
		echo "Installing $(APT_PACKAGES) (missing: $${missing[*]})"; \
		root=$$( (( $$(id -u) == 0 )) || echo sudo); \
		$$root apt-get update -q >/dev/null; \
		$$root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(APT_PACKAGES) >/dev/null \
		|| for command in $(APT_COMMANDS); do command -v $$command >/dev/null; done; \
	fi

test: install servers lint ## Lint and every test, on real servers in a temporary folder (15 to 20 min on 2 cores)
	$(PYTEST) -m "not long" $(SIDE_BY_SIDE)

test-long: install servers ## The tests that take minutes (45 min on 2 cores, the soak alone takes 35)
	$(PYTEST) -m long --durations 0 --durations-min 60 $(SIDE_BY_SIDE)

chaos: install servers ## Break everything while 200 jobs run, then count what became of them (≤ 20 min; SEED= repeats a run)
	$(BIN)/python -m tests.chaos $(if $(filter command line environment,$(origin SEED)),--seed $(SEED))

lint: install servers ## ruff, mypy, import rules, and everything under deploy/ as far as it goes without an engine
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict deploy
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/hadolint --failure-threshold style deploy/Dockerfile
	promtool check config deploy/prometheus.yml
	promtool check rules deploy/rules.yml
	promtool test rules deploy/rules.test.yml

lock: ## Resolve all dependencies anew and write the lock files with hashes
	$(LOCK) --extra worker --extra dev --output-file requirements.lock pyproject.toml
	$(LOCK) --extra worker --constraint requirements.lock --output-file deploy/worker.lock pyproject.toml
	$(LOCK) --constraint requirements.lock --output-file deploy/gateway.lock pyproject.toml
	sed -i '/^# WARNING: /,$$d' requirements.lock deploy/worker.lock deploy/gateway.lock # torch is left out on purpose

audit: install ## Look the locked packages up in PyPI's list of known vulnerabilities (needs the network)
	$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --require-hashes \
		--requirement requirements.lock --requirement deploy/worker.lock --requirement deploy/gateway.lock

bench: install servers ## Ratios against baselines run side by side
	@for script in job chain encode memory gateway checkpoints; do echo "== $$script"; $(BIN)/python -m benchmarks.$$script; done

mutants: install servers ## Seed ten one-line bugs in the stages; every one must be caught
	$(BIN)/python -m tests.mutations

train-tiny: install ## Train the bundled model from nothing (eight hours on two cores)
	$(BIN)/python -m models.tiny.train

eval-tiny: install ## Measure the bundled model
	$(BIN)/python -m models.tiny.evaluate

clean: ## Remove what was built, the demo and caches (not .venv, nor data/ of the service)
	rm -rf demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
