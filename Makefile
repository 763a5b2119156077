# The two commands a visitor needs are `make demo` and `make test`; both set everything up in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
# A worker for each core (WORKERS=1 for one), and a file to each: tests of one file share what is slow to set up.
WORKERS ?= auto
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
export AGENTKD_DATA ?= $(abspath ../shared/data)
export AGENTKD_LABELME ?= /usr/share/doc/labelme-examples/examples
export AGENTKD_LAUNCHING ?= $(abspath ../shared/launching)
export AGENTKD_CASES ?= $(abspath ../shared/cases)

.DEFAULT_GOAL := help
.PHONY: help setup demo references test check coverage javascript validators chaos faults fuzz lint types bench docs clean mutants matrix cases spaces exports engines gpu

help:  ## Say what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## Create .venv and install agentkd into it

$(READY): pyproject.toml predict/pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (torch and a few small packages; some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e predict -e '.[dev]'
	@touch $@

demo: $(READY)  ## Run all of KD-NAS on generated scenes, six to eight minutes on two cores
	$(BIN)/agentkd demo

test: $(READY) javascript validators  ## Run every test, some forty minutes on two cores
	$(PYTEST) $(PARALLEL)

check: lint types  ## Check style, types, units and layers: some minutes, for between two changes
	$(PYTEST) $(PARALLEL) tests/unit tests/architecture

coverage: $(READY) javascript validators  ## Run every test and print which lines none executes, in agents' processes too unless they are killed
	$(PYTEST) $(PARALLEL) --cov --cov-report=term

javascript:
	@if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix examples/other_language; \
	else echo "Node is not installed: the agent in JavaScript is not tested"; fi

validators:
	@test -x .validators/.ready || { $(PYTHON) -m venv .validators && .validators/bin/python -m pip install --quiet \
	--disable-pip-version-check roc-validator==0.13.0 mlcroissant==1.1.1 && install -m 755 /dev/null .validators/.ready; } \
	|| { rm -rf .validators; echo "The validators could not be installed: bundles' metadata are not tested"; }

chaos: $(READY)  ## 300 faults at random (kills, stops, failing disks, flipped bits), each end compared with an undisturbed run, an hour
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos.py 300
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos.py 10 --coordinator --trials 50

faults: $(READY)  ## Fail opens, writes, syncs, renames and removals of a small run, 400 of them, one after the other, an hour (FAULTS=400, SEED=1)
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults.py $(or $(FAULTS),400) --seed $(or $(SEED),1)

engines:  ## Install SLURM (as root, on Debian) and Ray, into .engines, and run agents through them
	@command -v slurmctld >/dev/null || { apt-get update -qq && \
	apt-get install -qq -y --no-install-recommends slurmctld slurmd slurm-client munge iproute2 >/dev/null; } \
	|| echo "SLURM could not be installed: its tests are skipped"
	@test -x .engines/.ready || { $(PYTHON) -m venv .engines && .engines/bin/python -m pip install --quiet --disable-pip-version-check \
	-c constraints.txt torch && .engines/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e predict \
	-e '.[dev,ray]' && install -m 755 /dev/null .engines/.ready; }
	OMP_NUM_THREADS=1 .engines/bin/python -m pytest -q -m engines tests/process/test_engines.py

gpu: $(READY)  ## On a CUDA device: the tests that need one, the same bits of all families, and the benchmarks, ten minutes
	$(BIN)/python -m pytest -v -x -m gpu tests
	$(BIN)/python benchmarks/determinism.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/exchange.py --gpu

mutants: $(READY)  ## Change the code a little, many times, and say what no unit test notices (MINUTES=20, SEED=1)
	$(BIN)/python tests/mutants.py --minutes $(or $(MINUTES),20) --seed $(or $(SEED),1)

matrix: $(READY)  ## Run the unit tests with each Python from 3.11 to 3.13 that is installed
	$(BIN)/nox

cases: $(READY)  ## Run the cases of AGENTKD_CASES (../shared/cases) and say which come out right, half an hour
	OMP_NUM_THREADS=1 $(BIN)/python tests/cases.py

lint: $(READY)  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## Check types
	$(BIN)/mypy

fuzz: $(READY)  ## Read a million damaged messages and files, and send a hundred thousand to a live agent
	$(BIN)/python tests/fuzz.py 1000000
	AGENTKD_FUZZED=100000 $(BIN)/python -m pytest -q tests/process/test_hostile.py -k damaged_messages --timeout 1800

bench: $(READY)  ## Run the benchmarks behind the README's figures
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/teaching.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/exchange.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/codecs.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/recording.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/starting.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/opening.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/images.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scale.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reading.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/loop.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/loading.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/deploy.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/predicting.py

exports: $(READY)  ## Export random members of every family's space and compare each form with the network (MEMBERS=50), hours
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python tests/round_trips.py $(or $(MEMBERS),50)

spaces: $(READY)  ## Write docs/reference/spaces.md anew from the search spaces, a minute
	OMP_NUM_THREADS=1 $(BIN)/python -c "from agentkd.report.spaces import page; print(page(), end='')" > docs/reference/spaces.md.new
	mv docs/reference/spaces.md.new docs/reference/spaces.md

references: $(READY)  ## Write the pages of docs/reference that follow from the code anew, some seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m website.references

$(VENV)/.docs: $(READY) pyproject.toml constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]' && touch $@

# Scripts that sites usually take from other hosts: here they are files of the site. Without npm, diagrams are shown as text.
DIAGRAMS := mermaid@11.17.2
SHIM := iframe-worker@1.0.4
build/scripts/.ready:
	@mkdir -p build/scripts
	@if command -v npm >/dev/null; then cd build/scripts && npm pack --silent $(DIAGRAMS) $(SHIM) >/dev/null \
	&& tar -xzOf mermaid-*.tgz package/dist/mermaid.min.js > mermaid.min.js \
	&& tar -xzOf iframe-worker-*.tgz package/shim/index.js > iframe-worker.js && rm -f ./*.tgz && touch .ready; \
	else echo "npm is not installed: the site shows diagrams as text"; fi

docs: $(VENV)/.docs build/scripts/.ready  ## Build the site in build/site; check links, spelling, references, and that examples run
	$(PYTEST) tests/unit/test_documents.py tests/unit/test_references.py tests/unit/test_troubleshooting.py agentkd predict/agentkd_predict
	$(BIN)/codespell
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "The site is in build/site: open build/site/index.html"

clean:  ## Remove what was built, but no runs
	rm -rf $(VENV) .validators .engines build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
