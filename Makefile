# Two commands do everything on a fresh machine with Python 3.11 and make:
# `make demo` and `make test`. `make` alone lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo demo-real serve test test-fast test-faults fuzz services check format bench bench-postgres budgets test-integrations bench-client lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## make .venv with locked, hashed dependencies

$(STAMP): locks/dev.txt pyproject.toml client/pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e ./client
	@touch $(STAMP)

demo: $(STAMP) ## train real models, watch their metrics flow through the embedded pipeline
	$(BIN)/stepclock-server demo

demo-real: $(STAMP) ## the same on a real Kafka and a real InfluxDB 2, one consumer killed midway
	$(BIN)/stepclock-server demo --real

serve: $(STAMP) ## run the embedded server on 127.0.0.1:8787
	$(BIN)/stepclock-server serve

# Many tests wait for something to happen. Each process has a Kafka and an InfluxDB of its own.
JOBS ?= 2

test: $(STAMP) ## every test; real Kafka and InfluxDB where they can be had (JOBS=2 processes)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

test-fast: $(STAMP) ## the tests that need no service and no time
	$(BIN)/python -m pytest -m "not real and not slow"

SEEDS ?= 1 2 3 4 5
MINUTES ?= 3

test-faults: $(STAMP) ## faults upon real processes, every point compared (SEEDS="1 2" MINUTES=3)
	$(BIN)/python -m tests.fault_suite $(addprefix --seed ,$(SEEDS)) --minutes $(MINUTES)

# Seconds for each of the targets, which take turns on the cores there are.
SECONDS ?= $(if $(CI),30,60)

fuzz: $(STAMP) $(VENV)/.fuzz ## fuzz every parser of foreign bytes (SECONDS=60 each, Linux)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(TARGETS)

$(VENV)/.fuzz: locks/fuzz.txt | $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes \
		-r locks/fuzz.txt || { echo "atheris has no wheel for this system or Python: fuzzing needs Linux"; exit 1; }
	@touch $@

services: $(STAMP) ## fetch Kafka and build InfluxDB ahead (about 9 minutes the first time)
	$(BIN)/python -m native

check: $(STAMP) ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=client/bench $(BIN)/mypy client/bench/__main__.py
	PYTHONPATH=.:client $(BIN)/lint-imports

format: $(STAMP) ## format the code and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## measure everything and renew bench/README.md (20 to 25 minutes)
	$(BIN)/python -m bench

bench-postgres: $(STAMP) $(VENV)/.bench ## rows into PostgreSQL against this pipeline (PostgreSQL must be there)
	$(BIN)/python -m bench postgres --write

$(VENV)/.bench: locks/bench.txt | $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/bench.txt
	@touch $@

budgets: $(STAMP) ## instructions of hot functions and memory of a request, against bench/budgets/budgets.toml
	$(BIN)/python -m bench budgets

CLIENTS := .venv-bench-client

bench-client: $(STAMP) $(CLIENTS)/.installed ## stepclock beside Trackio, wandb, MLflow, ... (about 6 minutes, Linux)
	PYTHONPATH=.:client $(BIN)/python client/bench --python $(CLIENTS)/bin/python \
		--write client/bench/README.md $(ARGS)

FRAMEWORKS := .venv-integrations

test-integrations: $(FRAMEWORKS)/.installed ## the client under transformers and lightning (some gigabytes)
	$(FRAMEWORKS)/bin/python -m pytest client/tests/integrations client/tests/record/test_tensors.py

$(CLIENTS)/.installed: locks/bench-client.txt
$(FRAMEWORKS)/.installed: locks/integrations.txt
$(CLIENTS)/.installed $(FRAMEWORKS)/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

lock: ## renew the lock files (needs uv)
	uv pip compile -q --upgrade --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--universal --python-version 3.11 pyproject.toml -o locks/runtime.txt
	uv pip compile -q --upgrade --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--universal --python-version 3.11 --extra demo --extra dev pyproject.toml -o locks/dev.txt
	uv pip compile -q --upgrade --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--universal --python-version 3.11 --group fuzz -o locks/fuzz.txt
	uv pip compile -q --upgrade --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--universal --python-version 3.11 --group bench -o locks/bench.txt
	uv pip compile -q --upgrade --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--universal --python-version 3.11 --group client/pyproject.toml:bench -o locks/bench-client.txt
	uv pip compile -q --upgrade --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--universal --python-version 3.11 --group client/pyproject.toml:integrations -o locks/integrations.txt

clean: ## remove .venv and caches
	rm -rf $(VENV) $(CLIENTS) $(FRAMEWORKS) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

.PHONY: compose-up compose-down dashboards

compose-up: ## run Kafka, InfluxDB, gateway, consumer, Prometheus and Grafana in Docker
	docker compose up --detach --build --wait
	@docker compose logs --no-log-prefix init

compose-down: ## stop them; their data stays in volumes
	docker compose down

dashboards: $(STAMP) ## write grafana/dashboards/ anew from grafana/builders/
	$(BIN)/python -m grafana.builders
