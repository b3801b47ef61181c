# Two commands on a fresh machine with Python 3.11 or newer and make: `make demo` and `make test`.
# Everything lives in .venv; the only network that is used is the package index.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
RUN := $(VENV)/bin/python

# One thread per process: two OpenMP pools on two cores that spin while they wait are many times slower than one.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

# Processes of `make test`; 0 for its own alone. Tests of a file stay in one, since they share what is slow to make.
JOBS ?= 2

# The sizes of `make chaos` and `make fuzz`.
KILLS ?= 60
STUDIES ?= 1000
SEARCHES ?= 120

# The storage that `make screenshots` shows; a search of its own where there is none.
SOURCE ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check lint check-all check-oldest meta-train chaos fuzz benchmark docs package screenshots clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

demo: $(VENV)/.demo ## Install, then run a real search on the embedded checkpoint and write its report
	$(RUN) -m hf_rlsearch demo

test: $(VENV)/.test ## Install, then run the tests that take seconds
	$(RUN) -m pytest -q -n $(JOBS) --dist loadfile

lint: $(VENV)/.test ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

check: lint test ## What CI runs: lint, then test

check-all: lint docs package ## As check, with the slow tests, the documentation and the packages
	$(RUN) -m pytest -q -m "slow or not slow"

check-oldest: $(OLDEST)/.test ## The tests on the oldest versions that pyproject.toml allows
	$(OLDEST)/bin/python -m pytest -q -n $(JOBS) --dist loadfile

meta-train: $(VENV)/.test ## Make weights from nothing: bank, predictors, stop rule, head, gates (2 hours; docs/background/meta_training.md)
	$(RUN) -m hf_rlsearch.meta_training

chaos: $(VENV)/.test ## Kill a search KILLS times in one process and in two, and break it in every other way
	$(RUN) -m pytest -q -m "slow or not slow" tests/chaos tests/distributed tests/trainer/storage --kills $(KILLS)

fuzz: $(VENV)/.test ## Run STUDIES fuzzed studies and SEARCHES fuzzed searches of a Trainer
	$(RUN) -m pytest -q tests/fuzz --studies $(STUDIES) --searches $(SEARCHES)

benchmark: $(VENV)/.test ## Rebuild the table of the README from recorded trainings in TABLES (docs/background/benchmark.md)
	@test -n "$(TABLES)" || { echo "Say where the recorded trainings are: make benchmark TABLES=folder"; exit 2; }
	$(RUN) scripts/benchmarks/samplers.py --tables $(TABLES) --out runs/samplers.json --report runs/samplers.md \
		--figure docs/images/regret.svg

docs: $(VENV)/.docs ## Build the documentation in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo build/site/index.html

package: $(VENV)/.docs ## Build wheel and sdist in build/dist, and check them with twine
	rm -rf build/dist
	$(RUN) -m build --no-isolation --outdir build/dist
	$(RUN) -m twine check --strict build/dist/*

screenshots: $(VENV)/.test ## Rebuild docs/images from a real search (needs chromium, chromium-driver)
	$(RUN) scripts/screenshots.py $(SOURCE)

clean: ## Remove environments and caches
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hf_rlsearch needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN) -m pip install -q -c constraints.txt -e ".[report]"
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN) -m pip install -q -c constraints.txt -e ".[report,recipes,test]"
	touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.test
	$(RUN) -m pip install -q -c constraints.txt -e ".[docs]"
	touch $@

$(OLDEST)/.test: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q -c constraints-oldest.txt -e ".[report,test]"
	touch $@
