# hardrun. The two that matter: `make run` and `make test`; `make help` lists the rest.
#
# Started by root, everything that starts sandboxes runs as an ordinary user in a copy of the tree
# (scripts/as-ordinary-user); started by anybody else it runs in place.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PYTHON ?= $(shell scripts/find-python)
VENV := .venv
PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check
ROOT := $(filter 0,$(shell id -u))
PYTEST := $(VENV)/bin/python -m pytest
SOURCES = $(shell find hardrun/kernel hardrun/policy hardrun/posture policies profiles -type f \
	-not -name '*.pyc')

help:
	@echo 'make run      set everything up and run the demonstration'
	@echo 'make test     run the whole suite, as an ordinary user'
	@echo 'make check    linters, types and size budgets alone'
	@echo 'make build    a wheel in dist/'
	@echo 'make bench    measure against bwrap, runc, crun, unshare; writes benchmarks/results.md'
	@echo 'make docs     write the generated pages of docs/ anew'
	@echo 'make clean    remove what was built'

# -- what is built, each with a stamp so that the second time is quick -----------------------------

.make/host-%: scripts/prepare-host
	@scripts/prepare-host $*
	@mkdir -p .make && touch $@

.make/venv: pyproject.toml | .make/host-run
	@echo 'making $(VENV)'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@$(PIP) $$($(PYTHON) scripts/requirements.py | tr '\n' ' ') \
		$$(command -v musl-gcc >/dev/null || echo ziglang)
	@touch $@

.make/tests: .make/venv | .make/host-test
	@$(PIP) $$($(PYTHON) scripts/requirements.py test | tr '\n' ' ')
	@touch $@

# What the copy's own environment is installed from: the ordinary user may know no package index.
.make/wheels: .make/tests
	@mkdir -p $@
	@$(VENV)/bin/python -m pip download -qq --disable-pip-version-check --dest $@ pip \
		$$($(PYTHON) scripts/requirements.py test | tr '\n' ' ') 2>/dev/null
	@touch $@

executor: .make/venv
	@$(MAKE) -s -C hardrun/executor PYTHON='$(abspath $(VENV))/bin/python'

# Seccomp filters and policies, made ahead as in the wheel: the first start compiles nothing.
# The stamp lies in the directory that it is for: whoever removes one removes both.
hardrun/data/made: $(SOURCES) .make/venv
	@$(VENV)/bin/python hatch_build.py hardrun/data
	@touch $@

# An editable installation: a .pth file that names this directory, and the console script.
.make/installed: .make/venv hatch_build.py
	@$(MAKE) executor
	@$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

ready: executor .make/installed hardrun/data/made

# -- run and test ------------------------------------------------------------------------------------

ifneq ($(ROOT),)
run: ready
	@scripts/as-ordinary-user --keep demo make run

test: ready .make/wheels
	@status=0; $(PYTEST) -m root || status=1; \
	scripts/as-ordinary-user make test || status=1; exit $$status

bench: ready .make/host-bench
	@scripts/as-ordinary-user --keep demo --no-groups --bring benchmarks/results.md \
		--bring benchmarks/results.json make bench
else
run: ready
	@$(VENV)/bin/hardrun demo

test: ready .make/tests
	@$(PYTEST) $(TESTS)

bench: ready .make/host-bench
	@$(VENV)/bin/python benchmarks/startup.py
endif

check: ready .make/tests
	@$(PYTEST) tests/house

build: .make/venv
	@$(VENV)/bin/python -m hatchling build --target wheel

docs: ready
	@$(VENV)/bin/python scripts/generate_docs.py

clean:
	@$(MAKE) -s -C hardrun/executor clean
	rm -rf $(VENV) .make build dist hardrun/data .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	@[ -z '$(ROOT)' ] || rm -rf /var/lib/hardrun-test/demo

.PHONY: help executor ready run test bench check build docs clean
