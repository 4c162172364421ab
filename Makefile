# `make demo` and `make test` set everything up themselves; both can be repeated at no cost.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.salmask-ready
DEMO ?= runs/demo
GPU_REPORT ?= gpu-report
GPU_MINUTES ?= 25
# Test files are shared out among processes, one for each core; 0: all in one. Each takes up to 3 GB of memory.
TEST_PROCESSES ?= auto
SHARED_OUT := -n $(TEST_PROCESSES) --maxprocesses 4 --dist loadfile
# As slurm/local/launch.py does for its jobs: waiting threads sleep.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo test test-end-to-end test-slurm test-all test-lowest test-newest drill fuzz audit lint lock settings-page docs bench gpu-report clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(READY): pyproject.toml requirements/lock.txt tools/setup.sh tools/get_detectron2.py
	@PYTHON=$(PYTHON) VENV=$(VENV) bash tools/setup.sh
	@touch $@

setup: $(READY) ## Make the environment (.venv) by the lock; does nothing where it is up to date

demo: $(READY) ## From built-in images to the paper's Table 1 in miniature, some 10 minutes on 2 cores
	@$(BIN)/salmask sweep demo --local --parallel 2 --out $(DEMO)

test: $(READY) lint ## Lint, types, import rules and the default tests
	@$(BIN)/python -m pytest $(SHARED_OUT)

test-end-to-end: $(READY) ## Whole trainings, sweeps and detectors, and commands in processes of their own
	@$(BIN)/python -m pytest $(SHARED_OUT) -m 'end_to_end and not slow'

test-slurm: $(READY) ## The tests on a real Slurm, which it installs and starts here (root, Debian); else it says why not
	@$(BIN)/python -m pytest -m slurm -rs

test-all: $(READY) lint ## All tests, the slow ones too
	@$(BIN)/python -m pytest $(SHARED_OUT) -m 'not slurm'
	@$(BIN)/python -m pytest -m slurm -rs

test-lowest: ## The lowest versions that pyproject.toml allows, in build/versions-lowest, with the default and end-to-end tests
	@PYTHON=$(PYTHON) bash tools/try_versions.sh lowest

test-newest: ## The newest versions that pyproject.toml allows, in build/versions-newest, likewise
	@PYTHON=$(PYTHON) bash tools/try_versions.sh newest

drill: $(READY) ## Faults made for real with a tiny run, at many points, and a thousand bad inputs; for every night
	@$(BIN)/salmask drill --points 40 --inputs 1000

fuzz: $(READY) ## The properties of the tests with a thousand examples each, drawn anew; for every night
	@$(BIN)/python -m pytest $$(find tests -name "test_*_properties.py") tests/repro/runs/test_records.py tests/results/test_collecting.py --hypothesis-profile nightly --timeout 3600

audit: ## Known holes in the locked packages, by pip-audit; needs a network
	@PYTHON=$(PYTHON) bash tools/audit.sh

lint: $(READY) ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

lock: ## Write requirements/lock.txt anew: the versions of .venv, and of what it lacks the newest; needs uv
	@$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' > $(VENV)/freeze.txt
	@{ grep '^#' requirements/lock.txt; uv pip compile -q pyproject.toml --all-extras --universal --python-version 3.11 \
	  --no-annotate --no-header -c $(VENV)/freeze.txt; } > $(VENV)/lock.txt
	@mv $(VENV)/lock.txt requirements/lock.txt

settings-page: $(READY) ## Write docs/settings.md anew, from the settings' own dataclasses
	@$(BIN)/python tools/settings_page.py

docs: $(READY) ## The pages of docs/ as a site in build/site, built strictly; installs mkdocs-material and mkdocstrings
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c requirements/lock.txt -e '.[docs]'
	@$(BIN)/mkdocs build --strict

bench: $(READY) ## Masking cost: batched against one image at a time, in one run
	@$(BIN)/salmask bench masking

# Not of the environment: a machine with a GPU may have no network, and a torch of its own for its driver.
gpu-report: ## On a machine with a GPU, with the Python that has its torch: tests, benches, trace and small study; 25 minutes a call, goes on in the next
	@$(PYTHON) tools/gpu_report.py --out $(GPU_REPORT) --minutes $(GPU_MINUTES)

clean: ## Remove the environment and caches (never runs/)
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
