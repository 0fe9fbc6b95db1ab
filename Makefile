# `make run` and `make test` do everything on a fresh machine; Python 3.11 or newer and pip will do.
#   make run PYTHON=python3.12                      another interpreter
#   make run TORCH=cpu                              a PyTorch without CUDA: 1.9 GB in place of 6.4
#   make run TORCH="torch==2.14.1 torchvision==0.29.1"   particular versions, installed first
#   make test WORKERS=8                             as many tests at once, a core for each

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
WITHOUT_CUDA := torch torchvision --index-url https://download.pytorch.org/whl/cpu
EXTRAS := book,notebooks,test
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
ROOT_USER := $(if $(filter 0,$(shell id -u)),--allow-root)  # as in containers
# One thread for each worker: two workers' threads would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)
# Tests that share a fixture stay together (tests/conftest.py); nbval's import alone takes seconds.
TESTS := --dist loadgroup -p no:nbval tests
# A notebook's cells stay together. BOOKS=notebooks/01_pretraining.ipynb for one of them.
BOOKS ?= notebooks
NBVAL := --dist loadfile --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg \
	--nbval-cell-timeout 900

# The stamp holds the TORCH of the environment, which another one does not change.
MADE_WITH := $(shell cat $(BIN)/.ready 2>/dev/null)
ifneq ($(and $(TORCH),$(MADE_WITH)),)
ifneq ($(MADE_WITH),$(TORCH))
$(warning $(VENV)/ was made with TORCH=$(MADE_WITH) and stays so: for $(TORCH) run `make clean` first, or give VENV=another)
endif
endif

.PHONY: run book test test-notebooks test-slow check lint lab bench bench-quick gpu notebooks links clean help

help:
	@echo "make run        set up, then run the course's notebooks and build the book, runs/book/index.html"
	@echo "make book       set up, then build the book alone, of the lessons as they were run last"
	@echo "make test       set up, then the tests; they run the notebooks with parameters of seconds (8 minutes on two cores)"
	@echo "make lab        set up, then JupyterLab at the start page"
	@echo "make lint       ruff check, ruff format --check and mypy"
	@echo "make check      the quick tests, in a minute"
	@echo "make test-notebooks  the notebooks with their defaults, outputs compared (nbval)"
	@echo "make test-slow  the long runs: faults, three processes, Dask, the wheel (22 minutes)"
	@echo "make bench      measure against other libraries (installs them); writes benchmarks/RESULTS.md"
	@echo "make bench-quick  which ratios of benchmarks/RESULTS.md have moved, in less than three minutes"
	@echo "make gpu        on a CUDA GPU: its tests and its benchmark, in less than ten minutes"
	@echo "make notebooks  execute the notebooks in place, as they are committed"
	@echo "make links      write the notebooks' first cell and their links to the repository"
	@echo "make clean      remove the environment, caches and runs/"

# The stamp is younger than what decides the environment's content. pip compiles one file after the
# other, compileall on all cores; it fails where a package has a file of a newer Python.
$(BIN)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"simlab needs Python 3.11 or newer, and {sys.executable} is {v[0]}.{v[1]}: make $(MAKECMDGOALS) PYTHON=python3.12")'
	@echo "Setting up the environment in $(VENV)/, once: some four minutes, 6.4 GB (1.9 GB with TORCH=cpu) ..."
	@$(PYTHON) -m venv $(VENV)
	@if [ -n "$(TORCH)" ]; then $(PIP) --no-compile $(if $(filter cpu,$(TORCH)),$(WITHOUT_CUDA),$(TORCH)); fi
	@$(PIP) --no-compile -e ".[$(EXTRAS)]"
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@echo "$(or $(TORCH),$(MADE_WITH),the newest)" > $@

run: $(BIN)/.ready
	@$(BIN)/python notebooks/book.py

book: $(BIN)/.ready
	@$(BIN)/python docs/build_book.py --strict

test: $(BIN)/.ready
ifeq ($(CHROMIUM),)
	@echo "No Chromium here: the notebooks run without a browser. To have it: apt-get install chromium"
endif
	@$(PYTEST) $(TESTS)

test-notebooks: $(BIN)/.ready
	@runs=$$(mktemp -d) && SIMLAB_RUNS=$$runs $(PYTEST) $(NBVAL) $(BOOKS); \
		status=$$?; rm -rf "$$runs"; exit $$status

test-slow: $(BIN)/.ready
	@$(PIP) -e ".[examples,models]"
	@$(BIN)/python -m pytest tests -m slow

check: $(BIN)/.ready
	@$(PYTEST) $(TESTS) -q --first -m "not slow and not long and not notebook and not browser and not distributed"

lint: $(BIN)/.ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

lab: $(BIN)/.ready
	@echo "JupyterLab opens notebooks/00_start_here.ipynb; where no browser opens, go to an address that it prints."
	@$(BIN)/jupyter lab --notebook-dir . $(ROOT_USER) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

bench: $(BIN)/.ready
	@$(PIP) -e ".[bench]"
	@$(BIN)/python benchmarks/all_benchmarks.py

bench-quick: $(BIN)/.ready
	@$(PIP) -e ".[bench]"
	@$(BIN)/python benchmarks/all_benchmarks.py --quick

gpu: $(BIN)/.ready
	@$(BIN)/python -m pytest -p no:nbval -q -m cuda tests
	@$(BIN)/python benchmarks/bench_gpu.py

# executes each in place with an empty runs folder, as a newcomer's machine would, and measures it
notebooks: $(BIN)/.ready
	@$(BIN)/python notebooks/book.py --refresh
	@$(BIN)/python docs/make_figures.py

links: $(BIN)/.ready
	@$(BIN)/python notebooks/links.py

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
