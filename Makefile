# Two commands matter to a newcomer: `make demo` and `make test`. Both set everything up.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Most tests wait for something, so one more at a time than there are cores; more than four want memory.
JOBS   ?= $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 1 : 4)))

# Compiled modules are kept: a daemon that compiles its own at every start takes half as long again, and tests start
# hundreds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test check lock audit run bench fuzz soak programs ray demo-model deb client clean setup
.DEFAULT_GOAL := help

help:            ## say what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps make setup incremental: a changed pyproject.toml or lock installs again, nothing else does.
$(VENV)/.runtime: pyproject.toml requirements.lock scripts/make-venv
	@scripts/make-venv "$(PYTHON)" "$(VENV)" . requirements.lock
	@touch $@

$(VENV)/.dev: pyproject.toml requirements-dev.lock scripts/make-venv
	@scripts/make-venv "$(PYTHON)" "$(VENV)" '.[dev]' requirements-dev.lock
	@touch $(VENV)/.runtime
	@touch $@

setup: $(VENV)/.dev  ## make the environment for development

demo: $(VENV)/.runtime  ## live text of people, through the real daemon; of yourself: make demo ARGS=--mic
	@$(BIN)/sttd demo $(ARGS)

run: $(VENV)/.runtime  ## a daemon that stays, on this user's sockets
	$(BIN)/sttd serve

check: $(VENV)/.dev  ## ruff, mypy strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# A file's tests stay together, as they share a daemon.
test: check  ## everything that needs no GPU; models are fetched once, or their tests skipped
	$(BIN)/pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder --durations=25

lock:            ## newer releases of what sttd needs, with their hashes; run the tests after it
	scripts/make-lock

audit:           ## look for known holes in the locked releases; says so where nobody can be asked
	scripts/audit

bench: $(VENV)/.dev  ## the benchmarks; tables on the terminal, JSON under build/bench
	$(BIN)/python -m benchmarks

fuzz: $(VENV)/.dev  ## look for inputs that do harm, led by coverage: two minutes a target (SECONDS_EACH)
	@scripts/make-venv "$(PYTHON)" "$(VENV)" '.[dev,fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS_EACH),120) $(ARGS)

soak: $(VENV)/.dev  ## half an hour of everything while things go wrong (MINUTES); the verdict, JSON and a picture
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),30) $(ARGS)

programs:        ## pipecat and LiveKit, half a gigabyte, so that `make test` runs them against sttd, too
	@scripts/make-venv "$(PYTHON)" build/programs '.[programs]'

ray:             ## Ray Serve, a quarter of a gigabyte, so that `make test` runs deploy/ray on a cluster of this machine
	@scripts/make-venv "$(PYTHON)" build/ray '.[ray]'

demo-model:      ## train the embedded model anew, up to 90 minutes (wants espeak-ng, flite, festival)
	@scripts/make-venv "$(PYTHON)" build/training-venv '.[training]'
	build/training-venv/bin/python -m training.demo_model

deb:             ## a Debian package for this release, in dist/
	packaging/build-deb dist

client: $(VENV)/.runtime  ## a wheel of the client library alone (sttd-client), in dist/
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps -w dist ./clients

clean:           ## remove what was made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
