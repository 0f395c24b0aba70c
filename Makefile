# make test | make demo: all that is needed is Python 3.11 or newer, a C++17 compiler and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := vision,events,series,text,report,export,sweep,tensorboard,docs,test,dev
INSTALLED := $(VENV)/.installed
# What the benchmarks compare with, and what these import: nothing that would pull in another torch.
PEERS := spikingjelly loguru snntorch norse nir nirtorch h5py neurobench tqdm transformers regex

# One thread for each of pytest's two workers: more would fight for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

.PHONY: install peers lint format fast slow test ci demo docs runtime clean

test: lint fast

ci: lint fast slow

install: $(INSTALLED)

# The install is editable: Python sources are read from src/, only native ones need it again.
# Here a compiler is expected, so a build that fails is an error rather than an install without the extension.
$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(wildcard cmake/* src/neuromix/*/native/*.* src/neuromix/*/native/*/*.*) | $(BIN)/python
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -c constraints.txt torch
	NEUROMIX_REQUIRE_NATIVE=1 $(BIN)/python -m pip install -c constraints.txt --build-constraint constraints.txt -e ".[$(EXTRAS)]"
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Without them `neuromix bench` leaves the peers out, and their tests are skipped.
peers: $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt --no-deps $(PEERS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fast: $(INSTALLED)
	$(PYTEST) -m "not slow"

slow: $(INSTALLED)
	$(PYTEST) -m slow --durations 20

demo: $(INSTALLED)
	$(BIN)/neuromix demo --out demo --overwrite

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

# The event-driven engine without Python: build/runtime/nmx-run. Needs CMake.
runtime:
	cmake -S src/neuromix/runtime/native -B build/runtime
	cmake --build build/runtime

clean:
	rm -rf $(VENV) build site
