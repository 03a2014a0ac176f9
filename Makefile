# Enable token broker. `make help` lists what there is.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# uv from the PATH, or brought from PyPI into .uv
UV := $(shell command -v uv || echo .uv/bin/uv)
PYTHON := .venv/bin/python
PATH_OUTSIDE := $(PATH)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export SAM_CLI_TELEMETRY := 0
export UV_PYTHON_PREFERENCE := system
# The project's own environment, whatever is active in the shell that calls make.
export VIRTUAL_ENV := $(CURDIR)/.venv
# Containers often set it. Then each start of sam, and of a function in the embedded AWS, compiles
# hundreds of modules again: seconds, and half of what the deployed tests take.
unexport PYTHONDONTWRITEBYTECODE

##@ Try it

.PHONY: demo
demo: .venv/.installed ## Run the whole broker on an embedded AWS and show what each caller gets
	@$(PYTHON) -m local.demo

.PHONY: up
up: .venv/.installed ## The same, kept running, to build callers against
	@$(PYTHON) -m local.up

.PHONY: down
down: .venv/.installed ## End what `make up` started
	@$(PYTHON) -m local.up --down

##@ Develop

.PHONY: test
test: .venv/.installed ## Lint, types and all tests, with coverage
	@$(MAKE) --no-print-directory -j 2 $(LINT) node-client
	@$(PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --durations=10

.PHONY: test-unit
test-unit: .venv/.installed ## The tests that need nothing: seconds
	@$(PYTHON) -m pytest tests/unit tests/template

.PHONY: bench
bench: .venv/.installed ## Measure it beside floors and peers: one table, under 10 minutes
	@$(PYTHON) -m benchmarks

.PHONY: bench-quick
bench-quick: .venv/.installed ## The same with fewer runs, two minutes
	@$(PYTHON) -m benchmarks --quick

.PHONY: bench-proxy
bench-proxy: .venv/.installed ## enable-broker-proxy beside a bare reverse proxy of the same libraries, a minute
	@$(PYTHON) -m benchmarks.proxy

.PHONY: soak
soak: .venv/.installed ## Faults upon faults (MINUTES=10, SEED=1), and a check of every promise
	@$(PYTHON) -m tests.soak --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1) $(if $(RECORD),--record "$(RECORD)")

.PHONY: sabotage
sabotage: .venv/.installed ## Break the broker in a dozen places, one at a time: the soak must find each (ONLY=lease)
	@nice -n 5 $(PYTHON) -m tests.soak.sabotage $(ONLY)

.PHONY: fuzz
fuzz: .venv/.installed .venv-mutants/.installed ## Untrusted input (COUNT=100000, SEED=1), counted by target
	@nice -n 15 .venv-mutants/bin/python -m tests.fuzz --count $(or $(COUNT),100000) --seed $(or $(SEED),1)

.PHONY: interleavings
interleavings: .venv/.installed ## All interleavings of two runs and two faults, then COUNT=5000 of three runs (SEED=1)
	@nice -n 15 $(PYTHON) -m tests.interleavings --count $(or $(COUNT),5000) --seed $(or $(SEED),1)

.PHONY: mutants
mutants: .venv/.installed .venv-mutants/.installed ## Take away each guard, then mutate the code (or MODULES alone): the unit tests must notice
	@$(if $(MODULES),,nice -n 15 $(PYTHON) -m tests.mutants.guards)
	@nice -n 15 .venv-mutants/bin/python -m tests.mutants $(MODULES)

.PHONY: lint
lint: .venv/.installed ## Format, lint, types, template
	@$(MAKE) --no-print-directory -j 2 $(LINT)

# Side by side: on an empty cache, mypy alone takes as long as all others together.
LINT := lint-types lint-template lint-style
.PHONY: $(LINT)
lint-types:
	@mypy
lint-template:
	@AWS_DEFAULT_REGION=$${AWS_DEFAULT_REGION:-eu-west-1} sam validate --lint
lint-style:
	@ruff format --check --quiet .
	@ruff check --quiet .

.PHONY: audit
audit: .venv/.installed .venv-audit/.installed ## What others' tools find in template, policies, pins and history
	@$(PYTHON) -m tools.audit

.PHONY: sbom
sbom: .venv/.installed .venv-audit/.installed ## Write a CycloneDX bill of each artifact into dist/, and docs/licences.md
	@$(PYTHON) -m tools.sbom

.PHONY: format
format: .venv/.installed ## Format and fix what ruff can fix
	@ruff format .
	@ruff check --fix .

.PHONY: openapi
openapi: .venv/.installed ## Write the contract, docs/openapi.json, from the code that keeps it
	@$(PYTHON) -m tools.openapi

.PHONY: grants-schema
grants-schema: .venv/.installed ## Write docs/grants.schema.json, by which editors check grants.toml
	@$(PYTHON) -m tools.grants_schema

.PHONY: pictures
pictures: .venv/.installed ## Draw docs/images from what the demo and broker status print
	@$(PYTHON) -m tools.pictures

.PHONY: lock
lock: .venv/.installed ## Pin the newest versions that fit together into requirements/*.txt
	@for set in uv dev audit cdk mutants layer refresher bench-lambda bench-oauth; do \
	  $(UV) pip compile --quiet --upgrade --universal --generate-hashes --no-header \
	    --no-emit-index-url --python-version $$([ $$set = uv ] && echo 3.9 || echo 3.13) \
	    $$(case $$set in layer|refresher|bench-*) echo "-c requirements/dev.txt";; esac) \
	    requirements/$$set.in -o requirements/$$set.txt; \
	done

##@ Release

.PHONY: release
release: .venv/.installed .venv-audit/.installed ## Write dist/: template, zips, wheels, Node package, SBOMs and sums (DRAFT=1: between two releases)
	@$(PYTHON) -m tools.release $(if $(DRAFT),--draft)

.PHONY: release-check
release-check: .venv/.installed .venv-audit/.installed ## Build dist/ again on another path, compare every byte, and install its wheels
	@$(PYTHON) -m tools.release --check

.PHONY: cdk-check
cdk-check: .venv/.installed .venv-cdk/.installed ## Synthesise the CDK construct, compare it with the release, deploy it to the embedded AWS
	@node --version >/dev/null || { echo "make cdk-check needs node on the PATH" >&2; exit 1; }
	@$(PYTHON) -m pytest -q tests/deployed/test_7_release.py -k construct

##@ Deploy

.PHONY: deploy
deploy: .venv/.installed ## sam build && sam deploy to the account of your AWS credentials (CONFIG=prod)
	sam build --config-env $(or $(CONFIG),default)
	sam deploy --config-env $(or $(CONFIG),default)

.PHONY: acceptance
acceptance: .venv/.installed ## Stacks' whole life in a test account, removed at the end (OPTIONS=--help)
	@$(PYTHON) -m tools.acceptance $(OPTIONS)

.PHONY: clean
clean: ## Remove everything that make made
	rm -rf .venv .venv-audit .venv-cdk .venv-mutants .uv .node .go dist .aws-sam .local .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z][a-z-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo "Operate it"; echo '  . .venv/bin/activate && broker --help    see docs/operate.md'

# ── The environment ──────────────────────────────────────────────────────────────────────────────

.uv/bin/uv: requirements/uv.txt
	@echo "bringing uv from PyPI into .uv"
	@PATH="$(PATH_OUTSIDE)" python3 -m pip install --quiet --disable-pip-version-check \
	  --target .uv --upgrade --require-hashes -r requirements/uv.txt

.venv/.installed: requirements/dev.txt pyproject.toml $(filter .uv/bin/uv,$(UV))
	@echo "installing the pinned tools into .venv"
	@$(UV) venv --quiet --allow-existing .venv
	@$(UV) pip sync --quiet --require-hashes requirements/dev.txt
	@$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@# boto3-stubs, which sam brings, writes into the same folder as types-boto3: the latter wins.
	@$(UV) pip install --quiet --no-deps --reinstall-package types-boto3 \
	  "$$(grep -o '^types-boto3==[0-9.]*' requirements/dev.txt)"
	@touch $@

.venv-audit/.installed: requirements/audit.txt .venv/.installed
	@echo "installing the pinned tools of the audit into .venv-audit"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-audit
	@VIRTUAL_ENV=$(CURDIR)/.venv-audit $(UV) pip sync --quiet --require-hashes requirements/audit.txt
	@touch $@

.venv-cdk/.installed: requirements/cdk.txt .venv/.installed
	@echo "installing aws-cdk-lib into .venv-cdk"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-cdk
	@VIRTUAL_ENV=$(CURDIR)/.venv-cdk $(UV) pip sync --quiet --require-hashes requirements/cdk.txt
	@touch $@

.venv-mutants/.installed: requirements/mutants.txt .venv/.installed
	@echo "installing mutmut and atheris into .venv-mutants, on top of .venv"
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-mutants
	@VIRTUAL_ENV=$(CURDIR)/.venv-mutants $(UV) pip sync --quiet --require-hashes requirements/mutants.txt
	@below=$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  echo "import site; site.addsitedir('$$below')" > "$${below/.venv/.venv-mutants}/below.pth"
	@touch $@

# The Node client is built in .node: nothing is installed beside its source.
.PHONY: node-client
node-client:
	@if node --version 2>&1 | grep -qE '^v([2-9][0-9]|[1-9][0-9]{2})\.' && command -v npm >/dev/null; \
	  then $(MAKE) --no-print-directory .node/.built; \
	  else echo "Node 20 or newer, with npm, is missing: the tests of clients/node are skipped"; fi

.node/.installed: clients/node/package.json
	@echo "installing the pinned packages of the Node client into .node"
	@mkdir -p .node && cp $< .node
	@cd .node && npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error
	@touch $@

.node/.built: .node/.installed $(wildcard clients/node/* clients/node/*/*)
	@rm -rf .node/dist .node/src .node/test
	@cp -R clients/node/. .node
	@cd .node && npm run --silent build
	@touch $@

# ── What `sam build` calls: one target for each artifact ─────────────────────────────────────────
#
# Plain `sam build` leaves no bytecode in an artifact, and SAM's zip dates every file 1980, so
# that bytecode checked by time would be ignored: both double a cold start. Hence
# unchecked-hash bytecode, its paths those of Lambda (and the same on every machine).
#
# The same source gives the same artifact anywhere, so no list of installed files (RECORD) stays:
# it has hashes of scripts that name this machine's Python.
#
# The artifacts run on both architectures: all packages are pure Python but pydantic's core,
# whose two libraries lie side by side under names that say which is which.

INSTALL := .venv/bin/uv pip install --quiet --no-deps --require-hashes --python-version 3.13 --only-binary :all: --link-mode copy

.PHONY: build-SharedLayer
build-SharedLayer: is-installed
	$(INSTALL) --target "$(ARTIFACTS_DIR)/python" -r requirements/layer.txt
	cp -R layers/shared/token_broker "$(ARTIFACTS_DIR)/python"
	$(PYTHON) -m tools.prune_botocore "$(ARTIFACTS_DIR)/python/botocore/data"
	rm -rf "$(ARTIFACTS_DIR)/python/boto3/data" "$(ARTIFACTS_DIR)/python/boto3/examples"
	$(call finish,$(ARTIFACTS_DIR)/python,/opt/python)

.PHONY: build-GrantsLayer
build-GrantsLayer: is-installed
	$(PYTHON) -m token_refresher.check_grants layers/grants/grants.toml
	mkdir -p "$(ARTIFACTS_DIR)/python"
	cp layers/grants/grants.toml "$(ARTIFACTS_DIR)/python"

# No bytecode: callers' runtimes are several, and theirs brings botocore and urllib3.
.PHONY: build-EnableBrokerClientLayer
build-EnableBrokerClientLayer: is-installed
	mkdir -p "$(ARTIFACTS_DIR)/python"
	cp -R clients/python/enable_broker_client "$(ARTIFACTS_DIR)/python"
	find "$(ARTIFACTS_DIR)" -name __pycache__ -prune -exec rm -rf {} +

.PHONY: build-TokenRefresherFunction
build-TokenRefresherFunction: is-installed
	$(INSTALL) --target "$(ARTIFACTS_DIR)" --python-platform x86_64-manylinux2014 -r requirements/refresher.txt
	$(INSTALL) --target "$(ARTIFACTS_DIR)/arm64" --python-platform aarch64-manylinux2014 -r requirements/refresher.txt
	mv "$(ARTIFACTS_DIR)"/arm64/pydantic_core/*aarch64*.so "$(ARTIFACTS_DIR)/pydantic_core"
	rm -rf "$(ARTIFACTS_DIR)/arm64"
	cp -R functions/token_refresher/token_refresher "$(ARTIFACTS_DIR)"
	$(call finish,$(ARTIFACTS_DIR),/var/task)

.PHONY: build-TokenVendorFunction
build-TokenVendorFunction: is-installed
	cp -R functions/token_vendor/token_vendor "$(ARTIFACTS_DIR)"
	$(call finish,$(ARTIFACTS_DIR),/var/task)

# `sam build` alone, in a fresh clone: the first target brings the tools, and the others wait for it
# (`parallel = true`), with the Makefile as the lock. A container of `--use-container` has another
# Python than the .venv of this machine.
.PHONY: is-installed
is-installed:
	@case "$(CURDIR)" in /tmp/samcli/*) \
	  echo "run 'sam build' without --use-container: its artifacts are the same on every machine" >&2; exit 1;; esac
	@test -e .venv/.installed || PATH="$(PATH_OUTSIDE)" python3 -c "$$BRING_ONCE" $(MAKE) --no-print-directory .venv/.installed

define BRING_ONCE
import fcntl, os, subprocess, sys
lock = open("Makefile")
fcntl.flock(lock, fcntl.LOCK_EX)
sys.exit(0 if os.path.exists(".venv/.installed") else subprocess.call(sys.argv[1:]))
endef
export BRING_ONCE

# $(call finish,FOLDER,WHERE LAMBDA PUTS IT)
define finish
find "$(1)" -name __pycache__ -prune -exec rm -rf {} +
rm -rf "$(1)/bin" "$(1)/.lock"
find "$(1)" -path "*.dist-info/RECORD" -delete
$(PYTHON) -m compileall -q -j 1 --invalidation-mode unchecked-hash -s "$(1)" -p "$(2)" "$(1)"
endef
