# The template's everyday commands: `make help` lists them. They need Python 3.11 or newer, make,
# git and a package index; each makes .venv first where it is missing or old.

# The first Python on the PATH that is new enough; looked up only when .venv is made.
SYSTEM_PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
PYTHON = .venv/bin/python
PYTEST = $(PYTHON) -m pytest
# Two at a time; tests that share an installed project go to the same worker.
TWO = -n 2 --dist loadgroup
# One configuration for all: the rendered project's own is no TOML before it is rendered.
RUFF = --config pyproject.toml
CHECKED = benchmarks hooks tests $(wildcard scripts) '{{cookiecutter.project_slug}}/scripts'

# `make demo SERVE=1` stays up.
export SERVE

# What `make chaos` and `make storm` can be told; a seed plans the same deeds again.
MINUTES = 1
ROUNDS = 20
DATABASE = sqlite
CHAOS = cd tests && ../$(PYTHON) -B -m chaos --database $(DATABASE)
BENCH = $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(PEERS),--peers '$(PEERS)')

.PHONY: help setup demo test-fast test test-servers test-all chaos storm bench sure format manifest
.DEFAULT_GOAL := help

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: .venv/installed ## Make .venv with the tools

demo: .venv/installed ## The main job, from nothing: render, set up, serve, beat, show (SERVE=1: stay up)
	$(PYTHON) scripts/demo.py

test-fast: .venv/installed ## Answers, hooks and rendering, nothing installed: under a minute
	$(PYTEST) $(TWO) -m 'not install and not slow'

test: .venv/installed ## What a change can break in every rendering: under 10 minutes
	$(PYTEST) $(TWO) -m 'not slow'

test-servers: .venv/installed ## All tests of a rendered project on PostgreSQL and MariaDB
	$(PYTEST) $(TWO) -k test_all_its_tests_pass_on_that_server

test-all: .venv/installed ## Everything: the matrix, updates and chaos too
	$(PYTEST) $(TWO)

chaos: .venv/installed ## Kill, stop and crash, then audit: MINUTES=10 DATABASE=postgresql SEED=1
	$(CHAOS) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

storm: .venv/installed ## 50 beats at once on 200 due flows: ROUNDS=20 DATABASE=mysql
	$(CHAOS) --storm --rounds $(ROUNDS)

bench: .venv-bench/installed ## Measure beside the peers: QUICK=1 ONLY=throughput PEERS=celery
	@.venv-bench/bin/python -B -m benchmarks $(BENCH)

sure: .venv/installed ## Check format, lint and types of the template's own code
	$(PYTHON) -m ruff format $(RUFF) --check $(CHECKED)
	$(PYTHON) -m ruff check $(RUFF) $(CHECKED)
	$(PYTHON) -m mypy $(CHECKED)

format: .venv/installed ## Format the template's own code and mend what the linter can
	$(PYTHON) -m ruff format $(RUFF) $(CHECKED)
	$(PYTHON) -m ruff check $(RUFF) --fix $(CHECKED)

manifest: .venv/installed ## Note the engine's files as they are now, for `heartbeat check`
	$(PYTHON) -B scripts/manifest.py

# pip reads the list of tools from a file: the pip that comes with Python 3.11 knows no groups.
.venv/installed: pyproject.toml
	@$(or $(SYSTEM_PYTHON),$(error Python 3.11 or newer is needed, and none is on the PATH)) -m venv .venv
	@$(PYTHON) -c 'import tomllib; groups = tomllib.load(open("pyproject.toml", "rb")); \
	print(*groups["dependency-groups"]["dev"], sep="\n")' > .venv/requirements.txt
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -r .venv/requirements.txt
	@touch $@

# The peers, apart from the tools.
.venv-bench/installed: .venv/installed benchmarks/requirements.txt
	@.venv/bin/uv venv --quiet --clear -p $(PYTHON) .venv-bench
	@.venv/bin/uv pip install --quiet -p .venv-bench/bin/python -r benchmarks/requirements.txt
	@touch $@
