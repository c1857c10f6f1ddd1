# Each target is one visible command. All of them make the virtual environment first, and make it
# again when what it is built from has changed.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml setup.py $(wildcard src/jumpstarter/*.pyx)

.PHONY: venv build demo test soak lint types bench bench-peers instructions clean

venv: .venv/.stamp

.venv/.stamp: $(SOURCES)
	@echo "making .venv: a minute or two, the first time"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

build: venv
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

demo: venv
	$(BIN)/python examples/demo.py

test: demo
	$(BIN)/python -m pytest

soak: venv
	LEDGER_ROUNDS=1000 $(BIN)/python -m pytest -s tests/conformance/test_ledger.py

lint: venv
	$(BIN)/ruff check && $(BIN)/ruff format --check

types: venv
	$(BIN)/mypy && $(BIN)/python -m mypy.stubtest jumpstarter._framing

bench: venv
	$(BIN)/python -m benchmarks

bench-peers: venv
	$(BIN)/python -m benchmarks.peers

instructions: venv
	$(BIN)/python -m benchmarks.framing

clean:
	rm -rf .venv .venv-peers build dist src/*.egg-info src/jumpstarter/*.so
