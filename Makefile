# The template's everyday commands: `make help` lists them. They need Python 3.11 or newer, make,
# git and a package index; each makes .venv first where it is missing or old.

# What a shell has set for another Python or another environment must not change what these
# commands do; what names the package index, the way to it, and the cache is needed.
OTHERS = PYTHON% CONDA% VIRTUAL_ENV% PIP_% UV_%
NEEDED = %INDEX_URL %_INDEX UV_INDEX% %FIND_LINKS %CONFIG_FILE %PROVIDER %PROXY %CERT %_HOST %TIMEOUT \
	%RETRIES PIP_USE_% %CACHE_DIR %_TLS %OFFLINE %LINK_MODE
unexport $(filter-out $(NEEDED),$(filter $(OTHERS),$(.VARIABLES)))

# The first Python on the PATH that is new enough; looked up only when .venv is made.
SYSTEM_PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -E -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
PYTHON = .venv/bin/python
PYTEST = $(PYTHON) -m pytest --durations 10
# Two at a time; tests that share an installed project go to the same worker.
TWO = -n 2 --dist loadgroup
# One configuration for all: the rendered project's own is not TOML before it is rendered.
RUFF = --config pyproject.toml
CHECKED = benchmarks hooks tests $(wildcard scripts) '{{cookiecutter.project_slug}}/scripts'

# `make demo SERVE=1` stays up.
export SERVE

# The options of `make chaos` and `make storm`; the same seed plans the same faults.
MINUTES = 1
ROUNDS = 20
DATABASE = sqlite
# The options of `make fuzz`.
REQUESTS = 2000
CHAOS = cd tests && ../$(PYTHON) -B -m chaos --database $(DATABASE) $(if $(BROKER),--broker $(BROKER))
BENCH = $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(PEERS),--peers '$(PEERS)')

.PHONY: help setup demo test-fast test test-servers test-all chaos storm fuzz bench screenshots sure format manifest
.DEFAULT_GOAL := help

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: .venv/installed ## Make .venv with the tools

demo: .venv/installed ## The main job, from nothing: render, set up, serve, beat, show (SERVE=1: stay up)
	$(PYTHON) scripts/demo.py

test-fast: .venv/installed ## Answers, hooks and rendering, nothing installed: under a minute
	$(PYTEST) $(TWO) -m 'not install and not slow and not servers'

test: .venv/installed ## What a change can break in every rendering: under 10 minutes
	$(PYTEST) $(TWO) -m 'not slow and not servers'

test-servers: .venv/installed ## The tests of a project and of the engine on PostgreSQL and MariaDB
	$(PYTEST) $(TWO) -n 3 -m servers

test-all: .venv/installed ## Everything: the matrix, updates and chaos too
	$(PYTEST) $(TWO)

chaos: .venv/installed ## Kill, stop, crash and silence, then audit: MINUTES=10 DATABASE=postgresql BROKER=amqp SEED=1
	$(CHAOS) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

storm: .venv/installed ## 50 beats at once on 200 due flows: ROUNDS=20 DATABASE=mysql
	$(CHAOS) --storm --rounds $(ROUNDS)

fuzz: .venv/installed ## Send odd requests to served projects: REQUESTS=10000 SEED=1
	FUZZ_REQUESTS=$(REQUESTS) FUZZ_SEED=$(SEED) $(PYTEST) -s tests/test_fuzz.py

bench: .venv-bench/installed ## Measure beside the peers: QUICK=1 ONLY=throughput PEERS=celery
	@.venv-bench/bin/python -B -m benchmarks $(BENCH)

screenshots: .venv/installed ## Every page into var/screenshots, two of them into docs/images: needs Chromium
	$(PYTHON) scripts/screenshots.py

sure: .venv/installed ## Check format, lint and types of the template's own code
	$(PYTHON) -m ruff format $(RUFF) --check $(CHECKED)
	$(PYTHON) -m ruff check $(RUFF) $(CHECKED)
	$(PYTHON) -m mypy $(CHECKED)

format: .venv/installed ## Format the template's own code and fix what the linter can
	$(PYTHON) -m ruff format $(RUFF) $(CHECKED)
	$(PYTHON) -m ruff check $(RUFF) --fix $(CHECKED)

manifest: .venv/installed ## Note the engine's files as they are now, for `heartbeat check`
	$(PYTHON) -B scripts/manifest.py

# pip reads the list of tools from a file: the pip that comes with Python 3.11 knows no groups.
.venv/installed: pyproject.toml
	@echo "== The tools of this repository, once: making .venv"
	@$(or $(SYSTEM_PYTHON),$(error Python 3.11 or newer is needed, and none is on the PATH)) -m venv .venv
	@$(PYTHON) -c 'import tomllib; groups = tomllib.load(open("pyproject.toml", "rb")); \
	print(*groups["dependency-groups"]["dev"], sep="\n")' > .venv/requirements.txt
	@echo "== Installing them into .venv with pip, which can take a minute:" $$(cat .venv/requirements.txt)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -r .venv/requirements.txt
	@touch $@
	@echo "== The tools are installed"

# The peers, apart from the tools.
.venv-bench/installed: .venv/installed benchmarks/requirements.txt
	@.venv/bin/uv venv --quiet --clear -p $(PYTHON) .venv-bench
	@.venv/bin/uv pip install --quiet -p .venv-bench/bin/python -r benchmarks/requirements.txt
	@touch $@
