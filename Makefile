# Each target is one visible command. All of them make the virtual environment first, and make it
# again when what it is built from has changed.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml setup.py $(wildcard src/jumpstarter/*.pyx)

.PHONY: venv build demo test sanitize fuzz fuzz-coverage soak lint types bench bench-peers \
	instructions hostile clean

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

# The extension with the address and undefined-behaviour sanitizers, in a place of its own. Python's
# own allocator would hide from them where an object ends.
SANITIZED := build/sanitized
SANITIZERS = $(shell gcc -print-file-name=libasan.so):$(shell gcc -print-file-name=libubsan.so)

sanitize: venv
	JUMPSTARTER_SANITIZE=1 $(BIN)/pip install --quiet --upgrade --no-deps --target $(SANITIZED) .
	LD_PRELOAD=$(SANITIZERS) PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED):tests \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	$(BIN)/python -m pytest -p armed tests/test_framing.py tests/test_messages.py \
	tests/test_protocol.py tests/test_roles.py tests/test_fuzz.py

SECONDS := 60
SEED := $(strip $(shell od -An -N4 -tu4 /dev/urandom))

fuzz: venv
	PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(SECONDS) --seed $(SEED)

# Needs clang and Python's headers. What it finds is written to build/coverage.
CLANG ?= clang
COVERED := build/coverage
EMBEDDED = $(shell $(PYTHON)-config --embed --includes --ldflags) -rdynamic \
	-Wl,-rpath,$(shell $(PYTHON)-config --prefix)/lib
PURELIB = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

fuzz-coverage: venv
	CC=$(CLANG) LDSHARED='$(CLANG) -shared' CFLAGS=-fsanitize=fuzzer-no-link JUMPSTARTER_SANITIZE=1 \
	$(BIN)/pip install --quiet --upgrade --no-deps --target $(COVERED) .
	$(CLANG) -fsanitize=address,undefined,fuzzer -o $(COVERED)/fuzz tests/fuzz/coverage.c $(EMBEDDED)
	PYTHONPATH=tests $(BIN)/python -m fuzz.covered $(COVERED)/corpus
	PYTHONMALLOC=malloc PYTHONPATH=$(COVERED):tests:$(PURELIB) ASAN_OPTIONS=detect_leaks=0 \
	$(COVERED)/fuzz -max_total_time=$(SECONDS) -max_len=400 -artifact_prefix=$(COVERED)/ \
	$(COVERED)/corpus

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

# For less than all of it: make hostile ARGS='--peer jumpstarter --seconds 0.5' (or --help)
ARGS :=

hostile: venv
	$(BIN)/pip install --quiet --editable '.[hostile]'
	cd tests && ../$(BIN)/python -m hostile $(ARGS)

clean:
	rm -rf .venv .venv-peers build dist src/*.egg-info src/jumpstarter/*.so
