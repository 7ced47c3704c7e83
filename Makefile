# Motley's front door: `make` lists what there is. Every target makes what it needs and can be
# repeated; `make clean` takes it all away again.

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo demo-live test test-faults test-long test-minimum unit lint check crds chart bench fit venv binaries clean

PY := .venv/bin/python

help:  ## this list
	@echo "Motley: one plan for every model on every GPU of a cluster."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "First run: about 1 minute for the Python packages, then (demo, test) about 5 minutes to"
	@echo "build etcd, Kubernetes and kwok from source, once. Both are kept; \`make clean\` says where."

demo: venv binaries  ## a real control plane, examples applied, a node lost: under 2 minutes
	@$(PY) -m e2e.demo $(DEMO)

demo-live: venv binaries  ## two real language models on this CPU: served, hurt and re-planned
	@$(PY) -m e2e.live $(DEMO)

test: venv binaries  ## unit tests, kmock tests and the short end-to-end tests
	@sh .ci/test $(PYTEST)

test-faults: venv binaries  ## every fault of docs/faults.md, and real models: about 11 minutes (MOTLEY_FAULTS=full: longer)
	@sh .ci/faults $(PYTEST)

test-long: venv  ## long forms of oracles and histories, for a night
	@sh .ci/long $(PYTEST)

ON_MINIMUM := $(addprefix tests/e2e/test_,$(addsuffix .py,version crds_on_server motley chart_on_server admission \
              policies isolation quotas preview leadership classes namespaced))
test-minimum: export MOTLEY_KUBERNETES := $(or $(MOTLEY_KUBERNETES),minimum)
test-minimum: venv binaries  ## the main end-to-end tests on the oldest Kubernetes that is stated, which is built once
	@$(PY) -m pytest tests/chart/test_oldest.py $(ON_MINIMUM) -m "not slow or not e2e" $(PYTEST)

unit: venv  ## the tests that need no control plane
	@$(PY) -m pytest tests -m "not e2e and not slow" -n auto --dist worksteal $(PYTEST)

lint: venv  ## ruff, mypy, import contracts
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

check: lint  ## all of lint, goldens of CRDs and chart, links of the docs
	$(PY) -m pytest -q tests/chart tests/test_docs.py tests/test_layout.py

crds: venv  ## writes crds/ anew from operator/motley_operator/api
	@$(PY) -m motley_operator.cli.main crds --write crds

chart: venv  ## writes charts/motley/install.yaml anew (fetches helm where there is none)
	@sh .ci/chart

bench: venv  ## the benchmarks of tests/bench
	@$(PY) -m pytest tests/bench -m "slow or not slow" $(PYTEST)
	@$(PY) -m tests.bench.fleets --write
	@$(PY) -m tests.bench.workflows --write

ROWS := ../shared/data/perf/e2e_agg_dev.csv.gz
fit: venv  ## fits the cost model to measured rows (ROWS=...), writes its factors and errors anew
	@$(PY) -m motley_planner.fitting $(ROWS) --report docs/cost-model.md \
	  --factors planner/motley_planner/catalog/fitted.toml

venv:  ## the virtual environment .venv with all that development needs
	@sh .ci/venv

binaries: venv  ## the local control plane's programs (skipped with MOTLEY_KUBECONFIG)
	@test -n "$$MOTLEY_KUBECONFIG" || $(PY) -c "from e2e.cluster import binaries; binaries.ensure()"

clean:  ## removes .venv and caches of this checkout, and says what lies outside it
	@sh .ci/clean
