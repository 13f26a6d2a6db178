# What people and machines run here. Each target sets up what it needs on a fresh Debian or Ubuntu machine: packages as
# root (without root it says the command), Python packages into .venv by the hashes in requirements-dev.lock.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help venv demo test page pressure contract check format generate schema bench fuzz deb clean

PYTHON := .venv/bin/python
STAMP := .venv/.complete
# The suite that `make deb` builds for: trixie, forky or noble.
SUITE ?= trixie
# More for pytest (`make test ARGS='tests/unit -k ledger'`), and which benchmarks to run (`make bench ONLY=proxy,policy`).
ARGS ?=
# Whole machines run beside the other tests: each takes a processor for half an hour.
MACHINE_TESTS := tests/machine
OTHER_TESTS := tests --ignore=tests/machine
# A model server that runs already, for `make contract`: its kind and its address, http://127.0.0.1:PORT or unix:/PATH.
ENGINE ?=
URL ?=
ONLY ?=
# How long each target is fuzzed.
SECONDS ?= 30

# A private service manager with its bus and journal, the C compiler for the NVML test library, and what fetches the
# real llama-server.
NATIVE := curl systemd dbus dbus-user-session util-linux gcc libc6-dev mmdebstrap
MACHINE := user-mode-linux mmdebstrap e2fsprogs util-linux
DEB := git dpkg-dev debhelper lintian xz-utils

help:
	@echo "make demo      the main story, told by real parts on this machine"
	@echo "make test      unit, native and machine tests (ARGS=... for pytest)"
	@echo "make contract  what aitherd takes engines to be, against stand-ins, or a server (ENGINE=vllm URL=...)"
	@echo "make page      the live page in Chromium, the metrics in Prometheus; pictures in build/screenshots"
	@echo "make pressure  sleepers under memory pressure, on an emulated machine (ten minutes)"
	@echo "make check     formatting, lint, types, import direction, generated files"
	@echo "make bench     the benchmarks and what they are held against (ONLY=proxy,policy,...)"
	@echo "make fuzz      made-up bytes for the proxy's edge, SECONDS=30 for each target (corpus: tests/fuzz/corpus)"
	@echo "make deb       build/aitherd_VERSION_amd64.deb (SUITE=trixie, forky or noble)"
	@echo "make format    formats the code"
	@echo "make generate  rewrites what is generated (JSON Schema, diagram, lists of the manual, completions)"

venv: $(STAMP)

$(STAMP): requirements-dev.lock
	@python3 -c 'import ensurepip' 2>/dev/null || packaging/require python3 python3-venv
	@test -x $(PYTHON) || python3 -m venv .venv
	$(PYTHON) -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements-dev.lock
	@touch $@

demo: venv
	@packaging/require $(NATIVE)
	@$(PYTHON) -m tests.demo

test: venv
	@packaging/require $(NATIVE) $(MACHINE) $(DEB)
ifeq ($(strip $(ARGS)),)
	@mkdir -p build; \
	$(PYTHON) -m pytest $(MACHINE_TESTS) >build/machine-tests.log 2>&1 & machine=$$!; \
	trap 'kill $$machine' INT TERM; \
	$(PYTHON) -m pytest $(OTHER_TESTS); status=$$?; \
	wait $$machine || status=1; cat build/machine-tests.log; exit $$status
else
	$(PYTHON) -m pytest $(ARGS)
endif

contract: venv
	@packaging/require mmdebstrap gcc libc6-dev
	CONTRACT_ENGINE=$(ENGINE) CONTRACT_URL=$(URL) $(PYTHON) -m pytest $(ARGS) tests/contract

pressure: venv
	@packaging/require $(MACHINE) $(DEB) gcc libc6-dev qemu-system-x86
	AITHER_EMULATE=1 $(PYTHON) -m pytest $(ARGS) tests/machine/test_pressure.py

page: venv
	@packaging/require $(NATIVE) chromium fonts-dejavu-core prometheus
	$(PYTHON) -m pytest $(ARGS) tests/native/page tests/native/prometheus

check: venv
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy packaging/deb.py
	$(PYTHON) -m pytest -q tests/unit/test_architecture.py
	$(PYTHON) -m tests.generated --check

format: venv
	$(PYTHON) -m ruff format
	$(PYTHON) -m ruff check --fix

generate schema: venv
	$(PYTHON) -m tests.generated

bench: venv
	@packaging/require $(NATIVE) nginx-light haproxy
	$(PYTHON) -m tests.bench $(if $(ONLY),--only $(ONLY))

fuzz: venv
	$(PYTHON) -m tests.fuzz --seconds $(SECONDS) $(ARGS)

deb: venv
	@packaging/require $(DEB)
	@deb=$$($(PYTHON) packaging/deb.py --suite $(SUITE)) && lintian --allow-root --fail-on error,warning "$$deb" && echo "$$deb"

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
