# Everything a fresh machine needs is python3 (3.11 or newer) and make; `make help` lists the targets.
# Variables: PYTHON, the interpreter that .venv is made with; ARGS, passed on to pytest, the demo or the benchmarks;
# JOBS, how many tests run at a time (0: all in one process, as a debugger wants it).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
ARGS ?=
JOBS ?= 3

VENV := .venv
ALONE := .venv-agent
BIN := $(VENV)/bin
UV := $(BIN)/uv --quiet
# Demo and tests start many processes: none of them should compile everything anew.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(UV) pip install --compile-bytecode --require-hashes
PACKAGES := protocol agent server
PROJECTS := pyproject.toml $(PACKAGES:%=%/pyproject.toml)
CODE := $(sort $(foreach file,$(shell find $(wildcard $(PACKAGES) deploy tests benchmarks) -name '*.py'),$(firstword $(subst /, ,$(file)))))
# What starts whole processes comes last.
PARTS := $(filter-out tests/support/ tests/system/,$(wildcard tests/*/)) $(wildcard tests/system/)
AGENT_SOURCES := $(shell find protocol/src agent/src -type f -not -path '*/__pycache__/*')

say = @printf '\n== %s\n' "$(1)"
# pytest ends with 5 when ARGS select nothing here: right for one part of several.
pytest = $(1)/bin/python -m pytest -n $(JOBS) --dist loadfile $(2) $(ARGS) || [[ $$? == 5 && -n "$(strip $(ARGS))" ]]

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-13s %s\n", $$1, $$2 }'

.PHONY: demo
demo: $(VENV)/ready $(ASSETS) ## replay real baskets through real agents and prove the result; ARGS="--baskets 5000 --headless"
	@PYTHONPATH=deploy $(BIN)/python -m demo $(ARGS)

.PHONY: bench
bench: $(VENV)/bench ## measure, side by side with what else there is; ARGS goes to the runner
	@PYTHONPATH=deploy $(BIN)/python -m benchmarks $(ARGS)

# Long campaigns. Each ends by itself, prints its figures as JSON lines, and has a short form in the tests.
.PHONY: crash
crash: $(VENV)/ready ## kill, cut the power, fail the disk at every point; ARGS="kills --kills 1000", ARGS="journal power"
	@cd tests && ../$(BIN)/python -m crash $(ARGS)

.PHONY: simulate
SEEDS ?= 1000
FROM ?= 0
simulate: $(VENV)/ready ## whole histories from seeds FROM to FROM + SEEDS - 1; a failure prints the seed that replays it
	@cd tests && PYTHONHASHSEED=0 ../$(BIN)/python -m model.simulate --seeds $(SEEDS) --from $(FROM) $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/fuzz ## feed every reader what nobody should send; ARGS="--runs 1000000 --only frames"
	@cd tests && ../$(BIN)/python -m fuzz $(ARGS)

.PHONY: soak
soak: $(VENV)/ready ## drain a long outage while the tills go on selling
	@cd tests && ../$(BIN)/python -m crash.soak $(ARGS)

.PHONY: mutate
mutate: $(VENV)/mutate ## break the core on purpose, one place at a time, and see that a test notices
	@cd tests && ../$(BIN)/python -m mutation $(ARGS)

.PHONY: test
test: $(VENV)/ready ## every check and every test; ARGS goes to pytest
	@$(MAKE) lint types imports test-alone
	$(call say,Tests of every part)
	@$(call pytest,$(VENV),$(PARTS))

.PHONY: test-alone
test-alone: $(ALONE)/ready ## the agent's tests where only the agent is installed
	$(call say,The agent alone: its tests without any server dependency)
	@$(call pytest,$(ALONE),tests/agent)

.PHONY: screenshots
screenshots: $(VENV)/ready $(ASSETS) ## draw the docs' pictures of the cashier's page and the console anew; needs tests/support/browser.sh once
	@cd tests && ../$(BIN)/python -m support.screenshots ../docs/images

.PHONY: dashboards
dashboards: $(VENV)/grafana ## write Grafana's dashboards anew from deploy/observability/dashboards
	@PYTHONPATH=deploy $(BIN)/python -m observability.dashboards deploy/observability/grafana/dashboards
# The console's htmx and uPlot: without them its pages work too, with tables for charts.
ASSETS := server/src/tillstream_server/console/assets/vendor/htmx.min.js
.PHONY: assets
assets: ## put htmx and uPlot, by hash, where the server serves them from; needs npm
	@npm ci --prefix server/web --ignore-scripts --no-audit --no-fund --loglevel=error > /dev/null
	@$(PYTHON) server/web/vendor.py

# Where npm or the network is missing, that is said and no more.
$(ASSETS): server/web/package-lock.json server/web/vendor.py
	@$(MAKE) assets || echo "the console goes without charts: npm could not fetch them" >&2

.PHONY: lint
lint: $(VENV)/ready ## formatting and lint
	$(call say,Formatting and lint)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)

.PHONY: types
types: $(VENV)/ready ## mypy, strict
	$(call say,Types)
	@$(BIN)/mypy $(CODE)
	@$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 agent/src

.PHONY: imports
imports: $(VENV)/ready ## who may import whom
	$(call say,Import contracts)
	@$(BIN)/lint-imports --no-logo

.PHONY: format
format: $(VENV)/ready ## rewrite the code in the house's format
	@$(BIN)/ruff check --fix --exit-zero --quiet $(CODE)
	@$(BIN)/ruff format $(CODE)

.PHONY: requirements
requirements: $(VENV)/ready ## pin again what pyproject.toml files ask for; ARGS=--upgrade takes newer versions
	@$(call compile,bootstrap,- <<< 'uv>=0.13')
	@$(call compile,dev,$(PACKAGES:%=%/pyproject.toml) --extra fast --group dev)
	@$(call compile,bench,--group bench --constraint requirements/dev.txt --override <(echo python-dateutil))
	@$(call compile,fuzz,--group fuzz)
	@$(call compile,grafana,--group grafana --constraint requirements/dev.txt)
	@$(call compile,deploy-server,--group deploy-server --constraint requirements/dev.txt)
	@$(call compile,build,--group build --constraint requirements/dev.txt)
	@$(call compile,mutate,--group mutate --constraint requirements/dev.txt)
	@$(call compile,tryton,--group tryton --constraint requirements/dev.txt)
	@$(call compile,test,--group test --constraint requirements/dev.txt)
	@$(call compile,agent,agent/pyproject.toml --constraint requirements/dev.txt)
	@$(call compile,bundle,agent/pyproject.toml --extra fast --constraint requirements/dev.txt)
	@$(call compile,package,agent/pyproject.toml --extra fast --group package --constraint requirements/dev.txt)
	@$(call compile,ansible,--group ansible)
	@$(call compile,server,server/pyproject.toml --constraint requirements/dev.txt)

# Names, versions and hashes only: no address of an index, no path, and the workspace's own packages left out.
compile = $(UV) pip compile $(2) --output-file requirements/$(1).txt --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	$(PACKAGES:%=--no-emit-package tillstream-%) $(ARGS) > /dev/null

# The agent's packages, in an environment that holds what ships and what builds it.
PACKAGED := .venv-package
DIST ?= dist
.PHONY: package
package: $(PACKAGED)/ready ## build the agent's .deb, .rpm and offline bundle into dist/; ARGS="--only deb"
	@PYTHONPATH=deploy $(PACKAGED)/bin/python -m packager --out $(DIST) --pip $(BIN)/python $(ARGS)

# BOUND: seconds within which the checks of what is deployed have to end, once their environments are there.
.PHONY: check-deploy
BOUND ?= 600
check-deploy: $(PACKAGED)/ready $(VENV)/ansible $(VENV)/deploy-server ## build what is deployed and try it; needs tests/support/{packaging,deploy_server}.sh once
	$(call say,What is deployed)
	@rm -f build/check-deploy.jsonl
	@TILLSTREAM_CHECK_DEPLOY=1 timeout --kill-after=10 $(BOUND) $(call pytest,$(VENV),tests/deploy/agent tests/deploy/server)
	@cat build/check-deploy.jsonl

$(VENV)/ansible: requirements/ansible.txt | $(VENV)/ready
	@$(PYTHON) -m venv --without-pip .venv-ansible
	@$(INSTALL) --python .venv-ansible -r requirements/ansible.txt
	@touch $@

$(PACKAGED)/ready: $(VENV)/ready requirements/package.txt $(AGENT_SOURCES)
	$(call say,Setting up $(PACKAGED) from the agent's wheels)
	@[[ -x $(PACKAGED)/bin/python ]] || $(BIN)/python -m venv --without-pip $(PACKAGED)
	@rm -rf build/wheels
	@for part in protocol agent; do $(UV) build --wheel --no-build-isolation --out-dir build/wheels $$part; done
	@$(UV) pip sync --require-hashes --python $(PACKAGED) requirements/package.txt
	@$(UV) pip install --python $(PACKAGED) --no-deps build/wheels/*.whl
	@touch $@

.PHONY: clean
clean: ## remove the environments, caches and builds
	rm -rf $(VENV) $(ALONE) $(PACKAGED) .venv-ansible build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache uv.lock
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp in each environment says that it holds what the requirement files ask for.
$(VENV)/ready: requirements/bootstrap.txt requirements/dev.txt $(PROJECTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Tillstream needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(call say,Setting up $(VENV))
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@$(INSTALL) --python $(VENV) -r requirements/dev.txt
	@$(UV) pip install --python $(VENV) --no-deps --no-build-isolation $(PACKAGES:%=-e %)
	@touch $@

$(VENV)/deploy-server $(VENV)/fuzz $(VENV)/grafana $(VENV)/mutate: $(VENV)/%: $(VENV)/ready requirements/%.txt
	@$(INSTALL) --python $(VENV) -r requirements/$*.txt
	@touch $@

# Segment's SDK asks for an older python-dateutil than pandas has here, and works with this one: no dependency is
# looked up, so that nothing is installed in another version than everything else was tested with.
$(VENV)/bench: $(VENV)/ready requirements/bench.txt
	@$(INSTALL) --no-deps --python $(VENV) -r requirements/bench.txt
	@touch $@

# Tryton's modules are found by their distributions' entry points, so ours is installed too. The empty shop takes Tryton
# a minute to make: it is made once, and every test begins with a copy.
TRYTON_SHOP := $(VENV)/tryton-shop
$(VENV)/tryton: $(VENV)/tryton-packages $(TRYTON_SHOP)/made
	@touch $@

$(VENV)/tryton-packages: $(VENV)/ready requirements/tryton.txt $(wildcard deploy/pos/*/pyproject.toml)
	@$(INSTALL) --python $(VENV) -r requirements/tryton.txt
	@$(UV) pip install --python $(VENV) --no-deps --no-build-isolation -e deploy/pos/python -e deploy/pos/tryton
	@touch $@

$(TRYTON_SHOP)/made: requirements/tryton.txt tests/support/tryton_build.py | $(VENV)/tryton-packages
	$(call say,Setting up a shop in Tryton)
	@rm -rf $(TRYTON_SHOP) $(TRYTON_SHOP).new && mkdir $(TRYTON_SHOP).new
	@$(BIN)/python tests/support/tryton_build.py $(TRYTON_SHOP).new
	@touch $(TRYTON_SHOP).new/made && mv $(TRYTON_SHOP).new $(TRYTON_SHOP)

$(ALONE)/ready: $(VENV)/ready requirements/agent.txt requirements/test.txt $(AGENT_SOURCES)
	$(call say,Setting up $(ALONE) from the agent's wheels)
	@[[ -x $(ALONE)/bin/python ]] || $(BIN)/python -m venv --without-pip $(ALONE)
	@rm -rf build/alone
	@for part in protocol agent; do $(UV) build --wheel --no-build-isolation --out-dir build/alone $$part; done
	@$(UV) pip sync --compile-bytecode --require-hashes --python $(ALONE) requirements/agent.txt requirements/test.txt
	@$(UV) pip install --python $(ALONE) --no-deps build/alone/*.whl
	@touch $@
