# `make help` prints this list. Every target first installs what it needs into .venv, and only when the pins have changed.

.DEFAULT_GOAL := help
python := .venv/bin/python
# Nothing of another Python on this machine may leak into this one.
unexport PYTHONPATH PYTHONHOME PYTHONSAFEPATH
# Checks of one kind run one at a time, so that their output stays readable.
.NOTPARALLEL:

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

.PHONY: demo
demo: ## Run the main job to its end on real data and print what happened (about 3 minutes)
	@scripts/install run demo flights
	@$(python) -m demo

.PHONY: run
run: ## Serve everything on loopback; started again, it continues (Ctrl-C ends it)
	@scripts/install run
	@$(python) -m services

.PHONY: test
test: ## Run the tests; some of them: make test ARGS='tests/releases -x'
	@scripts/install run demo flights dev
	@$(python) -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

.PHONY: check
check: ## Check format, lint, types, import rules and tidiness
	@scripts/install run demo flights dev
	@$(MAKE) --no-print-directory --keep-going check-format check-lint check-types check-imports check-tidy

.PHONY: check-format
check-format: ## (one part of check)
	@echo 'check: format (make format mends it)'
	@$(python) -m ruff format --check --quiet .

.PHONY: check-lint
check-lint: ## (one part of check)
	@echo 'check: lint'
	@$(python) -m ruff check --quiet .

.PHONY: check-types
check-types: ## (one part of check)
	@echo 'check: types'
	@$(python) -m mypy

.PHONY: check-imports
check-imports: ## (one part of check)
	@echo 'check: imports'
	@$(python) -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-logo

.PHONY: check-tidy
check-tidy: ## (one part of check)
	@echo 'check: tidiness'
	@$(python) -m pytest --quiet tests/test_tidy.py

.PHONY: format
format: ## Format the code and mend what the linter can mend
	@scripts/install run demo flights dev
	@$(python) -m ruff check --quiet --fix-only .
	@$(python) -m ruff format .

.PHONY: bench
bench: ## Measure against peers and limits; prints a table and writes build/bench.json
	@scripts/install run demo flights dev
	@$(python) -m benchmarks

.PHONY: openapi
openapi: ## Write docs/openapi.json from the code
	@scripts/install run
	@./prooftrail openapi docs/openapi.json

.PHONY: simulate
simulate: ## Try thousands of schedules of deliveries, crashes and rebuilds (SEED=n plays one again)
	@scripts/install run demo flights dev
	@SIMULATION_SEEDS=$${SIMULATION_SEEDS:-4000} $(if $(SEED),SIMULATION_SEED=$(SEED)) \
		$(python) -m pytest --quiet -n auto --maxprocesses 4 -k test_any_schedule tests/simulation

.PHONY: faults
faults: ## Break lines, processes and PostgreSQL while events are appended, projected and sealed (FAULT_SEEDS=500 for more)
	@scripts/install run demo flights dev
	@FAULT_SEEDS=$${FAULT_SEEDS:-50} $(python) -m pytest --quiet -n auto --maxprocesses 4 \
		tests/simulation/test_append_faults.py tests/shared/test_projecting_killed.py tests/shared/log/test_sealing_killed.py

.PHONY: killed
killed: ## Kill erase, backup, restore and move at each of their steps (make test does it at some)
	@scripts/install run demo flights dev
	@DATA_STEPS=all $(python) -m pytest --quiet tests/test_data_killed.py

.PHONY: flips
flips: ## Turn each bit of each byte of packs that a house exported (make test turns some)
	@scripts/install run demo flights dev
	@FLIP_EVERY=1 $(python) -m pytest --quiet tests/verifier/test_damage.py -k exported_pack

.PHONY: chaos
chaos: ## Stop, kill, pause and cut Kafka under load, and kill consumers at every step (CHAOS_SEEDS=20 for more)
	@scripts/install run demo flights dev
	@CHAOS_SEEDS=$${CHAOS_SEEDS:-5} $(python) -m pytest --quiet tests/test_kafka_troubles.py \
		tests/shared/kafka/test_consumers_killed.py tests/shared/kafka/test_late_leader.py tests/shared/kafka/test_kafka_feed.py

.PHONY: leaving
leaving: ## Tell each service in turn to end under load (make test does it to one)
	@scripts/install run demo flights dev
	@LEAVING_SERVICES='requirements verification releases drift traceability' $(python) -m pytest --quiet tests/test_leaving.py

.PHONY: proto
proto: ## Write proto/ from docs/openapi.json; a field keeps its number
	@scripts/install run demo flights dev
	@$(python) -m services.command proto docs/openapi.json proto

.PHONY: schemas
schemas: ## Write docs/asyncapi.json and docs/schemas/ from the events in the code
	@scripts/install run
	@./prooftrail schemas docs

.PHONY: kafka
kafka: ## Serve one Kafka broker on 127.0.0.1:9092, from its jars (Ctrl-C ends it; needs Java 17 and Maven)
	@scripts/install run demo flights dev
	@$(python) -m tests.kafka_broker

.PHONY: image
image: ## Build the image of the services (docker, podman or buildah): make image IMAGE=registry/prooftrail:1.0.0
	@scripts/image $(IMAGE)

.PHONY: kubernetes
kubernetes: ## Ask the cluster of KUBECONFIG to admit each overlay, roll out, tell the story there, and roll each service under load
	@scripts/install run demo flights dev
	@$(python) -m tests.kubernetes

.PHONY: pins
pins: ## Write requirements/*.txt from *.in; with UPGRADE=1 to the newest versions
	@scripts/install pins
	@scripts/pin $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## Remove the environment and everything built; data folders stay
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
