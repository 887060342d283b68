# make setup   .venv with everything pinned      make demo    Table 1 at small scale with the built-in models
# make test    the tests                         make soak    the long ones: kills, Slurm, fifty listeners
# make check   ruff, format, types
# PYTHON=python3.12 takes that one; otherwise the newest of 3.11 to 3.13 that runs here and can make an environment.
WORKS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	if "$$name" -c '$(WORKS)' >/dev/null 2>&1; then echo "$$name"; break; fi; done)
BIN := .venv/bin
export HF_HUB_DISABLE_TELEMETRY := 1
DEMO_PAIRS ?= 21

.PHONY: setup demo test soak check fuzz format requirements benchmarks clean

setup: .venv/.installed

.venv/.installed: requirements.txt pyproject.toml
	@"$(PYTHON)" -c '$(WORKS)' 2>/dev/null || { echo "make: $(or $(PYTHON:%=% is),there is) no Python 3.11, 3.12 or \
	3.13 that can make an environment; install one (Debian, Ubuntu: apt install python3 python3-venv), or name one: \
	make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/blendbench run experiment=bnmusic/table1 limit=$(DEMO_PAIRS) run_dir=runs/demo \
		executor=local executor.workers_per_device=auto

# A worker whose half is done takes over tests of the other's half; neighbours share what was made for their file.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test: setup
	$(PYTEST) -m "not soak"

soak: setup
	$(PYTEST) -m soak

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Five minutes of mutated sound files, tables and manifests; findings go to the folder that it names.
FUZZ_SECONDS ?= 300
fuzz: setup
	HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python -m support.fuzz --seconds $(FUZZ_SECONDS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pins what pyproject.toml asks for, once for all supported Pythons; holds no address of a registry. What the pins are
# made for (tool.uv.environments) is not said again on every line. PINS=--upgrade takes the newest of everything.
COMMON := python_full_version < '3.14' and ((platform_machine == 'arm64' and sys_platform == 'darwin') or sys_platform == 'linux')
requirements: setup
	$(BIN)/uv pip compile --quiet $(PINS) --universal --python-version 3.11 --fork-strategy fewest --no-header \
		--no-annotate --extra dev pyproject.toml -o requirements.txt
	sed -i "s/ ; $(COMMON)\$$//" requirements.txt

benchmarks: setup
	$(BIN)/python benchmarks/mel_inversion.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/builtin_models.py

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
