# make setup   .venv with everything pinned      make demo    Table 1 at small scale with the built-in models
# make test    the tests                         make check   ruff, format, types
PYTHON ?= python3.11
BIN := .venv/bin
export HF_HUB_DISABLE_TELEMETRY := 1
DEMO_PAIRS ?= 21

.PHONY: setup demo test check fuzz format requirements benchmarks clean

setup: .venv/.installed

.venv/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/blendbench run experiment=bnmusic/table1 limit=$(DEMO_PAIRS) run_dir=runs/demo

test: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Five minutes of mutated sound files, tables and manifests; findings go to the folder that it names.
FUZZ_SECONDS ?= 300
fuzz: setup
	HF_HUB_OFFLINE=1 $(BIN)/python tests/fuzz.py --seconds $(FUZZ_SECONDS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pins what pyproject.toml asks for; holds no address of a registry.
requirements: setup
	$(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --no-header --no-annotate --extra dev pyproject.toml -o requirements.txt

benchmarks: setup
	$(BIN)/python benchmarks/mel_inversion.py
	$(BIN)/python benchmarks/reading.py
	$(BIN)/python benchmarks/builtin_models.py

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
