# Two commands do everything on a fresh machine: `make demo` and `make test` (as root).
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
JOBS ?= $(shell expr $$(nproc) + 1)
MUTATE ?= agent/policy
MUTATION_SECONDS ?= 900
NATIVE := $(wildcard agent/*/_*.pyx agent/*/_*.pxd agent/cni/*.c)

.PHONY: help demo demo-kubernetes test test-unit chart cluster cluster-down image lint bench bench-smoke mutation fresh lock clean

help: ## what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## install what is missing and show the mesh on this machine (root)
	@deploy/require-root.sh "make demo"
	$(BIN)/quietwire demo $(DEMO_ARGS)

# Hundreds of processes are started: where this is set, as container images do, each would compile all that it imports.
test test-unit: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.dev ## install what is missing and run every test (root)
	@deploy/require-root.sh "make test"
	deploy/install-packages.sh test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-unit: $(VENV)/.dev ## the tests that need no root
	$(BIN)/python -m pytest -n $(JOBS) -m "not netns and not kubernetes" $(PYTEST_ARGS)

demo-kubernetes: $(VENV)/.dev ## the same on a real Kubernetes of two nodes, which is built first (root)
	@deploy/require-root.sh "make demo-kubernetes"
	deploy/install-packages.sh cluster
	$(BIN)/python -m tests.kubernetes.demo $(DEMO_ARGS)

cluster: $(VENV)/.dev ## bring up a real Kubernetes of two nodes on this machine; minutes at first, then seconds (root)
	@deploy/require-root.sh "make cluster"
	deploy/install-packages.sh cluster
	$(BIN)/python -m tests.kubernetes.cluster up $(CLUSTER_ARGS)

cluster-down: $(VENV)/.dev ## end it, and leave nothing but what was built (root)
	@deploy/require-root.sh "make cluster-down"
	$(BIN)/python -m tests.kubernetes.cluster down

chart: $(VENV)/.dev ## make the parts of deploy/helm that come from the code, and what `quietwire install` prints
	$(BIN)/python -m tests.kubernetes.cluster chart

image: $(VENV)/.runtime ## make the container image from Debian's packages: build/quietwire-VERSION.tar; no registry (root)
	@deploy/require-root.sh "make image"
	$(BIN)/python -m deploy.image

lint: $(VENV)/.dev ## ruff, mypy --strict, and that imports point downwards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.bench ## measure quietwire beside its peers, about ten minutes; BENCH_ARGS=--quick: two (root)
	@deploy/require-root.sh "make bench"
	deploy/install-packages.sh bench
	$(BIN)/python -m bench $(BENCH_ARGS)

bench-smoke: $(VENV)/.bench ## see that the bench works, in a minute (root)
	@deploy/require-root.sh "make bench-smoke"
	deploy/install-packages.sh bench
	$(BIN)/python -m bench --smoke --json >/dev/null

mutation: $(VENV)/.mutation ## which changes no test notices: MUTATE=agent/policy MUTATION_SECONDS=900 (not in CI)
	$(BIN)/python deploy/mutation.py $(MUTATE) $(MUTATION_SECONDS) $(MUTATION_TESTS) $(MUTATION_ARGS)

fresh: ## prove both commands in a minimal Debian tree (root, not in CI)
	deploy/fresh.sh

lock: ## renew the lock files after a change in pyproject.toml (needs uv)
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 requirements-build.in -o requirements-build.lock
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.lock
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 --extra bench pyproject.toml -o requirements-bench.lock
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 --extra mutation -c requirements-dev.lock pyproject.toml -o requirements-mutation.lock

clean: ## remove what make made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache

$(VENV)/.runtime: requirements-build.lock requirements.lock pyproject.toml $(NATIVE) deploy/build_native.py
	deploy/install-packages.sh demo
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements-build.lock
	$(PIP) install --require-hashes --no-build-isolation -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	$(PIP) install --require-hashes --no-build-isolation -r requirements-dev.lock
	touch $@

$(VENV)/.bench: $(VENV)/.runtime requirements-bench.lock
	$(PIP) install --require-hashes --no-build-isolation -r requirements-bench.lock
	touch $@

$(VENV)/.mutation: $(VENV)/.dev requirements-mutation.lock
	$(PIP) install --require-hashes --no-build-isolation -r requirements-mutation.lock
	touch $@
