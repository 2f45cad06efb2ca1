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
VM := $(VENV)/bin/python -m tests.vm
OUTCOMES := .make/outcomes
EXECUTOR := hardrun/executor/hardrun-exec
SOURCES = $(shell find hardrun/kernel hardrun/policy hardrun/posture policies profiles -type f \
	-not -name '*.pyc')

help:
	@echo 'make run      set everything up and run the demonstration'
	@echo 'make test     run the whole suite, as an ordinary user'
	@echo 'make vm-test  run the tests that need a kernel of their own: MACHINE=apparmor TESTS=tests/…'
	@echo 'make escape   attack the sandbox: each property, what holds it, and what proves that'
	@echo 'make fuzz     feed damaged input to everything that reads: TARGET=policy SECONDS=600'
	@echo 'make faults   let every system call of every operation fail, in every way'
	@echo 'make load     200 sandboxes at once for SECONDS=300, killed at random; nothing may be left'
	@echo 'make escape-peers  the same attacks inside bubblewrap and podman'
	@echo 'make check    linters, types and size budgets alone'
	@echo 'make build    a wheel in dist/'
	@echo 'make bench    measure against every runtime that is installed; writes benchmarks/results.*'
	@echo 'make bench-check  what must hold of that, and whether it does: QUICK=1 for a first look'
	@echo 'make bench-revisions OLD=… NEW=…  whether a start is slower at one revision than at another'
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
	@$(PIP) $$($(PYTHON) scripts/requirements.py test fuzz bench | tr '\n' ' ')
	@touch $@

# What the copy's own environment is installed from: the ordinary user may know no package index.
.make/wheels: .make/tests
	@mkdir -p $@
	@$(VENV)/bin/python -m pip download -qq --disable-pip-version-check --dest $@ pip \
		$$($(PYTHON) scripts/requirements.py test fuzz bench | tr '\n' ' ') 2>/dev/null
	@touch $@

executor: .make/venv
	@$(MAKE) -s -C hardrun/executor PYTHON='$(abspath $(VENV))/bin/python'

# Seccomp filters and policies, made ahead as in the wheel: the first start compiles nothing.
# The stamp lies in the directory that it is for: whoever removes one removes both.
hardrun/data/made: $(SOURCES) .make/venv
	@$(VENV)/bin/python hatch_build.py hardrun/data
	@touch $@

# An editable installation: a .pth file that names this directory, the console script, the front-end.
.make/installed: .make/venv hatch_build.py pyproject.toml
	@$(MAKE) executor
	@$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

ready: executor .make/installed hardrun/data/made
	@cmp -s $(EXECUTOR) $(VENV)/bin/hardrun || install -m 755 $(EXECUTOR) $(VENV)/bin/hardrun

# -- run and test ------------------------------------------------------------------------------------

ifneq ($(ROOT),)
run: ready
	@scripts/as-ordinary-user --keep demo make run

test: ready .make/wheels .make/host-vm
	@rm -rf $(OUTCOMES); mkdir -p $(OUTCOMES); status=0; \
	HARDRUN_OUTCOMES=$(OUTCOMES)/root.json $(PYTEST) -m root || status=1; \
	scripts/as-ordinary-user --bring $(OUTCOMES)/user.json make suite || status=1; \
	$(VM) --out $(OUTCOMES) || status=1; \
	$(VENV)/bin/python -m tests.vm.outcomes $(OUTCOMES) || status=1; exit $$status

bench: ready .make/wheels .make/host-bench
	@scripts/as-ordinary-user --keep demo --no-groups --bring benchmarks/results.md \
		--bring benchmarks/results.json --bring benchmarks/results.html make bench QUICK=$(QUICK)

bench-check: ready .make/wheels .make/host-bench
	@scripts/as-ordinary-user --keep demo --no-groups make bench-check QUICK=$(QUICK)

bench-revisions: ready .make/host-bench
	@rm -rf .make/revisions; for revision in $(OLD) $(NEW); do \
		mkdir -p .make/revisions/$$revision && git -c safe.directory='*' archive $$revision | \
			tar --extract --directory .make/revisions/$$revision || exit 1; done
	@scripts/as-ordinary-user --keep demo --no-groups make bench-revisions \
		OLD=.make/revisions/$(OLD) NEW=.make/revisions/$(NEW) ROUNDS=$(ROUNDS)
else
run: ready
	@$(VENV)/bin/hardrun demo

# Without QEMU or an image for it this says so, and succeeds if everything else did.
test: suite
	@$(VM) --optional --out $(OUTCOMES)

bench: ready .make/tests .make/host-bench
	@$(VENV)/bin/hardrun bench all $(if $(QUICK),--quick) --output benchmarks

bench-check: ready .make/tests .make/host-bench
	@$(VENV)/bin/hardrun bench check $(if $(QUICK),--quick)

bench-revisions: ready .make/host-bench
	@$(VENV)/bin/python benchmarks/revisions.py $(OLD) $(NEW) $(ROUNDS)
endif

suite: ready .make/tests
	@mkdir -p $(OUTCOMES)
	@HARDRUN_OUTCOMES=$(OUTCOMES)/user.json $(PYTEST) $(TESTS)

vm-test: ready .make/tests .make/host-vm
	@$(VM) $(MACHINE) $(if $(TESTS),--tests $(TESTS))

# What each layer adds to a start, where the kernel has them all.
vm-bench: ready .make/tests .make/host-vm
	@$(VM) apparmor --command 'sudo -n $$(command -v hardrun) profile install hardrun-untrusted && \
		systemd-run --user --scope --quiet -p Delegate=yes -- \
		hardrun bench startup --against "" -- /usr/bin/true'

# The attacks and what else shows that a property holds; the table of docs/security.md.
ifneq ($(ROOT),)
escape: ready .make/wheels
	@rm -rf $(OUTCOMES)/escape; mkdir -p $(OUTCOMES)/escape; status=0; \
	touch $(OUTCOMES)/escape/user.json; \
	scripts/as-ordinary-user --bring $(OUTCOMES)/escape/user.json make escape-tests || status=1; \
	$(VENV)/bin/python -m tests.escape.properties $(OUTCOMES)/escape docs/security.md || status=1; \
	exit $$status
else
escape: escape-tests
	@$(VENV)/bin/python -m tests.escape.properties $(OUTCOMES)/escape docs/security.md
endif

# The same attacks inside bubblewrap and podman; the other table of docs/security.md.
ifneq ($(ROOT),)
escape-peers: ready .make/wheels
	@scripts/as-ordinary-user --keep demo --bring docs/security.md make escape-peers
else
escape-peers: ready .make/tests
	@$(VENV)/bin/python -m tests.escape.peers docs/security.md
endif

escape-tests: ready .make/tests
	@mkdir -p $(OUTCOMES)/escape
	@HARDRUN_OUTCOMES=$(OUTCOMES)/escape/user.json \
		$(PYTEST) $$($(VENV)/bin/python -m tests.escape.properties --tests)

# Every system call of every operation of every plan failing in every way; `make test` tries one of
# each kind.
ifneq ($(ROOT),)
faults: ready .make/wheels
	@HARDRUN_EVERY_FAULT=1 $(PYTEST) -m root tests/escape/test_faults.py
	@scripts/as-ordinary-user make faults
else
faults: ready .make/tests
	@HARDRUN_EVERY_FAULT=1 $(PYTEST) tests/escape/test_faults.py
endif

# Hundreds of sandboxes at once for SECONDS=…, with kills, time-outs and full disks, and what is left.
ifneq ($(ROOT),)
load: ready .make/wheels
	@full=$$(mktemp -d) && mount -t tmpfs -o size=1m,mode=1777 hardrun-load $$full && \
		trap "umount $$full; rmdir $$full" EXIT && \
		scripts/as-ordinary-user --keep load make load SECONDS=$(or $(SECONDS),300) FULL=$$full
else
load: ready
	@$(VENV)/bin/python -m tests.escape.load --seconds $(or $(SECONDS),300) $(if $(FULL),--full $(FULL))
endif

# Damaged input for everything that reads: all targets or TARGET=…, SECONDS=… for each. What it finds
# lies in .make/fuzz, where root started it in that of the copy.
ifneq ($(ROOT),)
fuzz: ready .make/wheels
	@scripts/as-ordinary-user --keep demo make fuzz TARGET='$(TARGET)' SECONDS=$(SECONDS) FLAGS='$(FLAGS)'
else
fuzz: ready .make/tests
	@$(VENV)/bin/python -m tests.fuzz $(TARGET) --seconds $(or $(SECONDS),600) $(FLAGS)
endif

ifneq ($(ROOT),)
check: ready .make/wheels
	@scripts/as-ordinary-user --keep demo make check
else
check: ready .make/tests
	@$(PYTEST) tests/house
endif

build: .make/venv
	@$(VENV)/bin/python -m hatchling build --target wheel

docs: ready
	@$(VENV)/bin/python scripts/generate_docs.py

clean:
	@$(MAKE) -s -C hardrun/executor clean
	rm -rf $(VENV) .make build dist hardrun/data .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	@[ -z '$(ROOT)' ] || rm -rf /var/lib/$${HARDRUN_TEST_USER:-hardrun-test}/demo

.PHONY: help executor ready run test suite vm-test vm-bench bench bench-check bench-revisions escape escape-tests \
	escape-peers faults load fuzz check build \
	docs clean
