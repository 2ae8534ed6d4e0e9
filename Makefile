# Every command a person or CI needs. Bare `make` prints this list.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV := .venv/bin

# where it is set, each of hundreds of processes compiles all that it imports
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup lock demo up down status test faults check format backfill replay bench golden docs

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## Install everything from the lock file into .venv

.venv/ready: requirements.lock pyproject.toml setup.sh
	@bash setup.sh

lock: ## Resolve the dependencies of pyproject.toml again into requirements.lock
	.tools/uv/bin/uv pip compile --universal --generate-hashes --python-version 3.11 --group dev \
	    pyproject.toml --custom-compile-command "make lock" -o requirements.lock

demo: setup ## The whole chain, driven through Airflow [SOURCE_URI=… CONTRACT=… FROM=… TO=… DRIFT=off]
	@$(VENV)/python -m demo $(if $(SOURCE_URI),--source-uri "$(SOURCE_URI)") $(if $(FROM),--from "$(FROM)") \
	    $(if $(TO),--to "$(TO)") $(if $(CONTRACT),--contract "$(CONTRACT)") $(if $(filter off,$(DRIFT)),--no-drift)

up: setup ## Start Airflow, MLflow, Spark Connect and the scoring service
	@$(VENV)/sluice up

down: ## Stop them
	@$(VENV)/sluice down

status: ## Say what runs, where, and what it takes
	@$(VENV)/sluice status

test: setup ## Everything that CI runs
	@bash .ci/test

faults: setup ## Kill, damage and fill up everything, at length [KILLS=100 FILES=10000]; .bench/faults.json
	@$(VENV)/python -m tests.faults "$(or $(KILLS),100)" "$(or $(FILES),10000)"

check: setup ## Format, lint, types, import rules: no test
	@$(VENV)/ruff format --check .
	@$(VENV)/ruff check .
	@$(VENV)/mypy
	@$(VENV)/lint-imports

format: setup ## Format the code and mend what the linter can
	@$(VENV)/ruff format .
	@$(VENV)/ruff check --fix .

backfill: setup ## Backfill a DAG through Airflow: DAG=fraud_ingest FROM=… TO=…
	@$(VENV)/sluice airflow backfill create --dag-id "$(DAG)" --from-date "$(FROM)" --to-date "$(TO)" \
	    --reprocess-behavior "$(or $(REPROCESS),completed)" --max-active-runs "$(or $(RUNS),2)"

replay: setup ## The loop over history: FROM=… TO=… [POLICY="a.yaml b.yaml" SCENARIO=…]
	@$(VENV)/sluice replay --from "$(FROM)" --to "$(TO)" $(foreach file,$(POLICY),--policy "$(file)") \
	    $(if $(SCENARIO),--scenario "$(SCENARIO)")

bench: setup ## Measure beside an alternative: NAME=chain [SECONDS=600 of the long run of NAME=serving]
	@$(if $(SECONDS),BENCH_SECONDS="$(SECONDS)" )$(VENV)/python -m tests.benchmarks "$(NAME)"

golden: setup ## Write the golden files of what each task calls; review the diff
	@WRITE_GOLDEN=1 $(VENV)/pytest -q tests/dags/test_golden_renders.py

docs: setup ## Write the generated pages of docs/
	@$(VENV)/python -m docs.generate
