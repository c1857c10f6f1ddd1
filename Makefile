# Each target is one visible command. All of them make the virtual environment first, and make it
# again when what it is built from has changed. What is in it is locked, with hashes; `make lock`
# takes what is newest today.

PYTHON ?= python3
VENV ?= .venv
LOCK ?= locks/dev.txt
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard src/jumpstarter/*.pyx)
INSTALL := pip install --quiet --disable-pip-version-check

.PHONY: venv lock build demo test coverage check test-lowest test-latest test-all \
	lane sanitize fuzz fuzz-coverage soak lint types verify-types docs sizes bench bench-peers \
	instructions hostile clean
.NOTPARALLEL: # one extension module is built in one place

venv: $(VENV)/.stamp

# The build requirements are locked too: nothing is fetched to build.
$(VENV)/.stamp: $(SOURCES) $(VENV)/.locked
	$(BIN)/$(INSTALL) --no-deps --no-index --no-build-isolation --editable .
	touch $@

$(VENV)/.locked: $(LOCK)
	@echo "making $(VENV) from $(LOCK): a minute or two, the first time"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/$(INSTALL) --require-hashes --requirement $(LOCK)
	echo $(LOCK) >$@

# For all platforms and Pythons that are supported. To keep what is not forced to change:
# make lock UPGRADE=
UPGRADE := --upgrade

lock: .venv-lock/.stamp
	PYTHON=.venv-lock/bin/python .ci/lock $(UPGRADE)

.venv-lock/.stamp:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/$(INSTALL) uv
	touch $@

build: venv
	$(BIN)/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir dist .

demo: venv
	$(BIN)/python examples/demo.py

# All tests, or those given: make test TESTS=tests/protocol/test_values.py
TESTS :=
MINUTES := 11

# COVERAGE=1 also measures coverage, with a floor in pyproject.toml, and takes half as long again.
COVERAGE :=

test: demo
	@echo "running all tests: about $(MINUTES) minutes on two cores (make check: one minute)"
ifeq ($(COVERAGE),)
	$(BIN)/python -m pytest $(TESTS)
else
	$(BIN)/python -m pytest $(UNCOVERED_TESTS)
	$(MAKE) coverage
endif

# Tests whose work is in other processes, where coverage does not count it.
UNCOVERED_TESTS := tests/conformance/ tests/hostile/ $(wildcard tests/test_benchmarks*.py) \
	$(patsubst %,tests/test_%.py,examples lock pages reference_example versions)
COVERED_TESTS := $(filter-out $(UNCOVERED_TESTS) %/__pycache__/,$(wildcard tests/test_*.py tests/*/))

# All other tests, under coverage.
coverage: venv
	$(BIN)/coverage run -m pytest $(COVERED_TESTS)
	$(BIN)/coverage report

# The quick answer: lint, and the tests of what everything stands on, up to whole calls.
QUICK_TESTS := $(filter-out %_model.py,$(wildcard tests/protocol/test_*.py)) \
	$(addprefix tests/test_,$(addsuffix .py,architecture end_to_end errors exports framing \
	guarantees lock security_table testing)) \
	$(addprefix tests/client/test_client_,$(addsuffix .py,base channel generators lead \
	raw_streams streams typed)) \
	$(addprefix tests/driver/test_driver_,$(addsuffix .py,base export signature)) \
	$(addprefix tests/drivers/test_drivers_,$(addsuffix .py,power shell storage)) \
	$(addprefix tests/exporter/test_,$(addsuffix .py,dispatch eager error_reporter executor \
	led_connection)) \
	$(addprefix tests/io/test_,$(addsuffix .py,connection portal sockets))

check: lint
	@echo "running the quick tests: about a minute"
	$(BIN)/python -m pytest $(QUICK_TESTS)

# The tests that touch what is not ours: values, messages, framing, extras, typing.
FOREIGN_TESTS := tests/drivers \
	$(addprefix tests/test_,$(addsuffix .py,deadlines end_to_end framing fuzz lock testing typing)) \
	$(addprefix tests/protocol/test_,$(addsuffix .py,codec decoding values)) \
	$(addprefix tests/client/test_client_,$(addsuffix .py,adapters expect lending progress)) \
	$(addprefix tests/driver/test_driver_,$(addsuffix .py,anyio http)) \
	tests/exporter/test_stream_forwarder.py tests/io/test_transfer.py

# With every dependency, build requirements too, at the lowest version that pyproject.toml admits.
test-lowest:
	$(MAKE) lane VENV=.venv-lowest LOCK=locks/lowest.txt

# Without a lock: what a user gets from pip today. It gates nothing.
test-latest:
	PYTHON=$(PYTHON) .ci/latest $(FOREIGN_TESTS)

# The whole suite on each of these, by version or by path.
PYTHONS ?= 3.11 3.12 3.13

test-all:
	.ci/test-all $(PYTHONS)

# As a user installs it, beside the editable one.
lane: $(VENV)/.locked
	rm -rf build/lib* build/bdist* # what an older tree has left there would be installed
	$(BIN)/$(INSTALL) --no-deps --no-index --no-build-isolation --force-reinstall .
	$(BIN)/pip check
	$(BIN)/ruff check && $(BIN)/ruff format --check
	$(BIN)/mypy --cache-dir $(VENV)/mypy
	$(BIN)/python -m pytest $(FOREIGN_TESTS)

# The extension with the address and undefined-behaviour sanitizers, in a place of its own. Python's
# own allocator would hide from them where an object ends.
SANITIZED := build/sanitized
SANITIZERS = $(shell gcc -print-file-name=libasan.so):$(shell gcc -print-file-name=libubsan.so)

sanitize: venv
	JUMPSTARTER_SANITIZE=1 $(BIN)/$(INSTALL) --upgrade --no-deps --no-index --no-build-isolation \
	--target $(SANITIZED) .
	LD_PRELOAD=$(SANITIZERS) PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED):tests \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	$(BIN)/python -m pytest -p armed tests/test_framing.py tests/protocol/test_codec.py \
	tests/protocol/test_protocol.py tests/protocol/test_protocol_roles.py tests/test_fuzz.py

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
	$(BIN)/$(INSTALL) --upgrade --no-deps --no-index --no-build-isolation --target $(COVERED) .
	$(CLANG) -fsanitize=address,undefined,fuzzer -o $(COVERED)/fuzz tests/fuzz/coverage.c $(EMBEDDED)
	PYTHONPATH=tests $(BIN)/python -m fuzz.covered $(COVERED)/corpus
	PYTHONMALLOC=malloc PYTHONPATH=$(COVERED):tests:$(PURELIB) ASAN_OPTIONS=detect_leaks=0 \
	$(COVERED)/fuzz -max_total_time=$(SECONDS) -max_len=400 -artifact_prefix=$(COVERED)/ \
	$(COVERED)/corpus

soak: venv
	LEDGER_ROUNDS=1000 $(BIN)/python -m pytest -s --timeout=0 -o faulthandler_timeout=0 \
	tests/conformance/test_ledger.py

lint: venv
	$(BIN)/ruff check && $(BIN)/ruff format --check

types: venv
	$(BIN)/mypy && $(BIN)/python -m mypy.stubtest jumpstarter._framing

# pyright comes from PyPI with a node of its own, and finds the package through PATH.
verify-types: venv
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/pyright --verifytypes jumpstarter --ignoreexternal

# The documentation site, in build/docs; a warning is an error.
docs: venv
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet docs build/docs

# Lines of functions, classes and modules of the package.
sizes: venv
	$(BIN)/python tests/sizes.py

bench: venv
	$(BIN)/python -m benchmarks

bench-peers: venv
	$(BIN)/python -m benchmarks.peers

instructions: venv
	$(BIN)/python -m benchmarks.framing

# For less than all of it: make hostile ARGS='--peer jumpstarter --seconds 0.5' (or --help)
ARGS :=

hostile: venv
	$(BIN)/$(INSTALL) --require-hashes --requirement locks/hostile.txt
	cd tests && ../$(BIN)/python -m hostile $(ARGS)

clean:
	rm -rf .venv .venv-* build dist src/*.egg-info src/jumpstarter/*.so
