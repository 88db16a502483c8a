# The only list of commands. `make` without a target prints what each does.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
ifndef LANES
.NOTPARALLEL: # pip cannot install twice at once into one environment; cargo uses all cores by itself
endif
MAKEFLAGS += --no-builtin-rules --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1

ARGS :=
RUNS := 25
PYTHON :=

# The folders of tests/, the longest first.
FOLDERS := multiprocessing crash workers cli buffers asynchronous conformance support

# The parts of test-package.
PACKAGE_PARTS := test-cpython-sample $(FOLDERS:%=test-%)

# The core's tests that run with fault points, and the others.
WITH_FAULTS := death stopped fairness ranges shutdown leases delays
WITHOUT_FAULTS := $(filter-out $(WITH_FAULTS), \
	$(notdir $(basename $(wildcard crates/penstock-core/tests/*.rs))) model)

# The parts of test-core, the longest first.
CORE_PARTS := build/.test-core-fault-points build/.test-core build/.test-history build/.test-kill-sample \
	build/.test-damage build/.test-loom-sample

VENV := .venv
TORCH := .venvs/torch
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet
WHEELS := build/wheel
FAULT_POINTS := build/fault-points
QUICK := build/quick
LIBRARIES := .venvs/libraries
FUZZ_TARGET = $(or $(CARGO_TARGET_DIR),target)/fuzz
DOCUMENTS = $(wildcard *.md docs/*.md docs/design/*.md)

BEGUN := $(shell date +%s)

# $(PART) "name" command ...: prints the name, runs the command, and prints the seconds that it took.
PART := part() { name=$$1; shift; echo "== $$name"; begun=$$(date +%s); \
	"$$@" && echo "== $$name: $$(($$(date +%s) - begun)) s"; }; part

# Folders too: a deleted file changes the time of its folder only.
CORE := Cargo.toml Cargo.lock $(shell find crates/penstock-core -not -name '.*')
HISTORY := $(CORE) $(shell find crates/penstock-history -not -name '.*')
PACKAGE := $(CORE) pyproject.toml README.md LICENSE \
	$(shell find crates/penstock-python python -not -path '*__pycache__*' -not -name '*.so' -not -name '.*')

.PHONY: help demo test quick bench bench-core lint docs clean
.PHONY: quick-core $(FOLDERS:%=quick-%)
.PHONY: test-core test-damage test-package test-cpython-sample $(FOLDERS:%=test-%)
.PHONY: test-cpython fuzz test-sanitizers test-mutants test-kill test-history test-loom test-model test-storm
.PHONY: test-torch test-libraries test-storm-of-leases count-instructions

help:
	@echo "make demo                 set everything up and run the main job (ARGS='--kill /usr/share')"
	@echo "make test                 set everything up and run all tests"
	@echo "make quick                after a change: check it, and run the tests that are not slow (a minute)"
	@echo "make bench                measure beside all rivals, write docs/benchmarks (ARGS=--help)"
	@echo "make bench-core           time single steps of the core, and messages between two processes"
	@echo "make lint                 check format, types, layers and language"
	@echo "make docs                 check the documents' examples and links, as make test does, too"
	@echo "make clean                remove all that was built, the environments too"
	@echo
	@echo "The parts of make test:"
	@echo "make test-core            test the core, with samples of the histories, the models and the kills"
	@echo "make test-damage            of that: damaged memory, the fuzzer's corpus and changes of it"
	@echo "make test-package         test the Python package"
	@echo "make test-FOLDER            of that: one folder of tests/ (ARGS='-k NAME'):"
	@echo "                            $(FOLDERS)"
	@echo "make test-cpython-sample    of that: a sample of the interpreters' own tests"
	@echo
	@echo "The proof, each a longer run of what make test samples (docs/evidence.md has the figures):"
	@echo "make test-kill            kill a process at every instruction of every operation (half an hour)"
	@echo "make count-instructions   print the instructions of the fast paths beside their budgets (a minute)"
	@echo "make test-history         record concurrent runs and prove them linearizable"
	@echo "                          (ARGS='--minutes 10 --seed 1')"
	@echo "make test-loom            model-check every interleaving of small runs, with a process that stops"
	@echo "make test-model           compare more random programs with the model (RUNS=25)"
	@echo "make test-storm           hit programs by faults, Penstock beside its rivals (a quarter of an hour)"
	@echo "make test-storm-of-leases hit producers and workers of leased items (five minutes)"
	@echo "make fuzz                 damage the shared memory at random (ten minutes; ARGS='--seconds 3600')"
	@echo "make test-cpython         run the interpreters' own tests that meet a queue (a quarter of an hour)"
	@echo "make test-torch           pass tensors with the newest torch (5.4 GB in .venvs/torch)"
	@echo "make test-libraries       run in frozen programs, and with dill, Twisted, tqdm, dask and others"
	@echo "make test-sanitizers      run the core's tests under AddressSanitizer and ThreadSanitizer"
	@echo "make test-mutants         break the protocol on purpose, and see that each change is caught"
	@echo "                          (ARGS='--only NAME')"
	@echo
	@echo "PYTHON=/path/to/python3 chooses the interpreter of $(VENV), the first time."
	@echo "A free-threaded one (from 3.14 on) must be named."

demo: $(VENV)/.penstock
	@$(BIN)/penstock demo $(ARGS)

test: test-core test-package docs
	@echo "All tests passed, in $$(($$(date +%s) - $(BEGUN))) s."

# PYTHONPATH puts this build before the released one, which stays in the environment.
quick: $(VENV)/.build $(VENV)/.test
	@tools/require cargo cc
	@$(PART) "cargo check" env $(CARGO_PYTHON) cargo check --quiet --locked --workspace
	@$(call build_wheel,"Building a wheel of the profile quick",$(QUICK)-wheel,--profile quick)
	@rm -rf $(QUICK) && $(PIP) install --no-index --no-deps --target $(QUICK) $(QUICK)-wheel/*.whl
	@$(PART) "The tests that are not slow, three parts at a time" \
		$(MAKE) --jobs=3 --output-sync=target LANES=3 $(FOLDERS:%=quick-%) quick-core
	@echo "Nothing found, in $$(($$(date +%s) - $(BEGUN))) s."

quick-core:
	@$(PART) "The core's behaviour" cargo test --quiet --locked --profile quick -p penstock-core --test behaviour

# A folder may have no such test, and then pytest ends with 5.
$(FOLDERS:%=quick-%): quick-%: $(VENV)/.build $(VENV)/.test
	@$(PART) "tests/$*" env PYTHONPATH=$(abspath $(QUICK)) \
		$(BIN)/python -m pytest --quiet -m "not slow" tests/$* $(ARGS) || [ $$? = 5 ]

# Two parts at a time: most of them sleep, and none may depend on its speed. The longest come first.
test-core:
	@$(PART) "The core, two parts at a time" \
		$(MAKE) --jobs=2 --output-sync=target LANES=2 $(CORE_PARTS)

test-history:
	@tools/require cargo cc
	@cargo run --quiet --release --locked -p penstock-history -- $(ARGS)

test-damage: build/.test-damage

test-loom:
	@tools/require cargo cc
	@$(PART) "The models: every interleaving within the bounds of src/models/mod.rs" \
		$(LOOM) --test-threads=2 $(ARGS)

# Two at a time: most tests sleep, and none may depend on its speed.
test-package: $(VENV)/.penstock $(VENV)/.test build/.fault-points
	@$(PART) "The package, two parts at a time" \
		$(MAKE) --jobs=2 --output-sync=target LANES=2 $(PACKAGE_PARTS)
	@$(PART) "The examples in its docstrings" \
		$(BIN)/python -m pytest --quiet --doctest-modules --ignore-glob='*/_bootstrap/*' --pyargs penstock

$(FOLDERS:%=test-%): test-%: $(VENV)/.penstock $(VENV)/.test build/.fault-points
	@$(PART) "tests/$*" env PENSTOCK_FAULT_POINTS_PATH=$(abspath $(FAULT_POINTS)) \
		$(BIN)/python -m pytest --quiet tests/$* $(ARGS)

test-kill: build/kill
	@build/kill $(ARGS)

count-instructions: build/kill
	@build/kill --count

test-cpython test-cpython-sample: build/.wheel $(VENV)/.python
	@$(PART) "The interpreters' own tests" \
		$(BIN)/python tools/cpython_tests.py $(WHEELS)/*.whl $(if $(filter %-sample,$@),--sample)

test-storm: $(VENV)/.penstock $(VENV)/.storm
	@$(BIN)/python -m tests.crash.storms $(ARGS)

# Of what is leased, put later and produced; ARGS='--minutes 10'.
test-storm-of-leases: $(VENV)/.penstock $(VENV)/.storm
	@$(BIN)/python -m tests.crash.storms.leasing $(ARGS)

test-libraries: $(LIBRARIES)/.penstock
	@$(LIBRARIES)/bin/python -m pytest --quiet tests/multiprocessing/libraries $(ARGS)

test-model: $(VENV)/.penstock $(VENV)/.test
	@PENSTOCK_MODEL_RUNS=$(RUNS) $(BIN)/python -m pytest --quiet tests/conformance/test_state_machine.py $(ARGS)

# The newest torch each time: its answers about a tensor change from version to version.
test-torch: $(TORCH)/.penstock
	@echo "== Tensors, with the newest torch (5.4 GB, the first time)"
	@$(TORCH)/bin/python -m pip --quiet install --upgrade --group torch --group test
	@$(TORCH)/bin/python -c 'import torch; print("torch", torch.__version__)'
	@$(TORCH)/bin/python -m pytest --quiet -k "test_tensors or test_torch" \
		tests/buffers/test_tensors.py tests/multiprocessing/test_clients.py $(ARGS)

# Both give the stable compiler options of nightly ones; tools/fuzz.py says why.
fuzz: $(VENV)/.python
	@tools/require cargo cc
	@$(BIN)/python tools/fuzz.py $(ARGS)

test-sanitizers: $(VENV)/.python
	@tools/require cargo cc
	@$(BIN)/python tools/sanitizers.py $(ARGS)

test-mutants: $(VENV)/.python
	@tools/require cargo cc
	@$(BIN)/python tools/mutants.py $(ARGS)

bench: $(VENV)/.penstock $(VENV)/.bench
	@$(BIN)/python -m benchmarks --output docs/benchmarks $(ARGS)

bench-core:
	@tools/require cargo cc
	@cargo bench --quiet --locked -p penstock-steps --bench steps -- $(ARGS)
	@cargo bench --quiet --locked -p penstock-steps --bench handing

lint: $(VENV)/.penstock $(VENV)/.lint
	@tools/require cargo cc clippy rustfmt
	@$(PART) "rustfmt" cargo fmt --all --check
	@$(PART) "rustfmt, the fuzzer" cargo fmt --manifest-path fuzz/Cargo.toml --check
	@$(PART) "clippy" env $(CARGO_PYTHON) $(CLIPPY) --workspace --all-targets -- -D warnings
	@$(PART) "clippy, with fault points" env $(CARGO_PYTHON) \
		$(CLIPPY) --workspace --all-targets --features penstock-python/fault-points -- -D warnings
	@$(PART) "clippy, the fuzzer" \
		$(CLIPPY) --manifest-path fuzz/Cargo.toml --target-dir $(FUZZ_TARGET) -- -D warnings
	@$(PART) "clippy, the models" \
		env RUSTFLAGS="--cfg loom" $(CLIPPY) -p penstock-core --all-targets --profile models -- -D warnings
	@$(PART) "The layers of the core" $(BIN)/python tools/check_layers.py
	@$(PART) "The pieces that mutants replace" $(BIN)/python tools/mutants.py --fit
	@$(PART) "The layers of the binding" $(BIN)/python tools/check_binding_layers.py
	@$(PART) "ruff" $(BIN)/python -m ruff check --quiet .
	@$(PART) "ruff, the format" $(BIN)/python -m ruff format --quiet --check .
	@$(PART) "import-linter" sh -c \
		'log=$$(PYTHONPATH=python:. $(BIN)/lint-imports --no-logo --no-cache 2>&1) || { echo "$$log"; false; }'
	@$(PART) "mypy" $(BIN)/python -m mypy --no-error-summary
	@$(PART) "The types that programs see" \
		$(BIN)/python tools/check_types.py $(DOCUMENTS) tests/types_of_the_interface.py
	@$(PART) "stubtest" env MYPYPATH=python $(BIN)/python -m mypy.stubtest --concise penstock._native
	@$(PART) "The language" $(BIN)/python tools/check_language.py
	@echo "Nothing to complain about."

docs: $(VENV)/.penstock
	@$(PART) "The documents" $(BIN)/python tools/check_docs.py $(DOCUMENTS)
	@$(PART) "The core's own documents" env RUSTDOCFLAGS="-D warnings" \
		cargo doc --quiet --locked --no-deps --document-private-items -p penstock-core

clean:
	rm -rf build target $(VENV) .venvs .mypy_cache .hypothesis .pytest_cache .ruff_cache

# The steps of the commands above. Each file records that its step was done.

# pyo3 needs the interpreter's path, and that no libpython is linked; maturin tells it both.
CLIPPY := cargo clippy --quiet --locked
CARGO_PYTHON := PYO3_PYTHON=$(abspath $(BIN)/python) PYO3_BUILD_EXTENSION_MODULE=1

# Built apart from everything else, because loom takes the place of the atomics and of the kernel.
LOOM := env RUSTFLAGS="--cfg loom" \
	cargo test --quiet --locked -p penstock-core --lib --profile models -- --nocapture

# $(call build_wheel,name,folder,options): prints what maturin said only if it fails.
define build_wheel
tools/require cargo cc && wheel() { rm -rf $(2) && mkdir -p $(2) && \
	{ $(BIN)/python -m maturin build --quiet --locked --compatibility linux \
	--interpreter $(BIN)/python --out $(2) $(3) >$(2)/log 2>&1 || { cat $(2)/log; false; }; }; } && \
	$(PART) $(1) wheel
endef

build/.test-core: $(CORE)
	@tools/require cargo cc
	@$(PART) "The core" cargo test --quiet --locked -p penstock-core --lib $(WITHOUT_FAULTS:%=--test %)
	@mkdir -p $(@D) && touch $@

build/.test-core-fault-points: $(CORE)
	@tools/require cargo cc
	@$(PART) "The core, with fault points" \
		cargo test --quiet --locked -p penstock-core --features fault-points \
			$(WITH_FAULTS:%=--test %)
	@mkdir -p $(@D) && touch $@

build/.test-history: $(HISTORY)
	@tools/require cargo cc
	@$(PART) "Recorded histories" cargo test --quiet --locked -p penstock-history
	@mkdir -p $(@D) && touch $@

KILL := $(CORE) $(shell find crates/penstock-proof -not -name '.*')

build/kill: $(KILL)
	@tools/require cargo cc
	@$(PART) "Building the proof by killing" cargo build --quiet --locked --profile proof -p penstock-proof
	@mkdir -p $(@D) && cp "$${CARGO_TARGET_DIR:-target}/proof/kill" $@

build/.test-kill-sample: build/kill
	@$(PART) "The killer's own tests" cargo test --quiet --locked -p penstock-proof
	@$(PART) "A sample of the proof by killing" build/kill --sample 3000
	@touch $@

# The fuzzer's target without the fuzzer: it runs on the corpus, and on random changes of it.
build/.test-damage: $(CORE) $(shell find fuzz -mindepth 1 -not -name '.*')
	@tools/require cargo cc
	@mkdir -p $(@D)
	@$(PART) "The core on damaged memory" cargo run --quiet --locked --release \
		--manifest-path fuzz/Cargo.toml --target-dir $(FUZZ_TARGET) --bin replay \
		-- --mutations 2500 --current build/damage-input fuzz/corpus
	@touch $@

build/.test-loom-sample: $(CORE)
	@tools/require cargo cc
	@$(PART) "The core's smallest models" \
		$(LOOM) one_putter_one_getter large_payloads growing two_survivors
	@mkdir -p $(@D) && touch $@

$(VENV)/.python:
	@python=$$(tools/find-python $(PYTHON)) || exit 1; \
	echo "== Making $(VENV) with $$python"; \
	"$$python" -m venv --clear $(VENV)
	@$(PIP) install --upgrade "pip>=25.1" # the first that knows dependency groups
	@touch $@

GROUPS := build test lint bench storm
$(GROUPS:%=$(VENV)/.%): $(VENV)/.%: $(VENV)/.python pyproject.toml
	@$(PART) "Installing what $* needs" $(PIP) install --group $*
	@touch $@

# Built anew for a new environment, whose interpreter may need another wheel.
build/.wheel: $(PACKAGE) $(VENV)/.python | $(VENV)/.build
	@$(call build_wheel,"Building the wheel",$(WHEELS),--release)
	@touch $@

build/.fault-points: $(PACKAGE) $(VENV)/.python | $(VENV)/.build
	@$(call build_wheel,"Building the wheel with fault points (for tests)",$(FAULT_POINTS)-wheel,\
		--profile quick --features fault-points)
	@rm -rf $(FAULT_POINTS)
	@$(PIP) install --no-index --no-deps --target $(FAULT_POINTS) $(FAULT_POINTS)-wheel/*.whl
	@touch $@

$(VENV)/.penstock: build/.wheel $(VENV)/.python
	@$(PIP) install --no-index --no-deps --force-reinstall $(WHEELS)/*.whl
	@wheel=$$(echo $(WHEELS)/*.whl) && $(PIP) install "$$wheel[cli]"
	@touch $@

$(TORCH)/.penstock: build/.wheel $(VENV)/.python
	@test -x $(TORCH)/bin/python || $(BIN)/python -m venv $(TORCH)
	@$(TORCH)/bin/python -m pip --quiet install --upgrade "pip>=25.1"
	@$(TORCH)/bin/python -m pip --quiet install --force-reinstall --no-deps $(WHEELS)/*.whl
	@wheel=$$(echo $(WHEELS)/*.whl) && $(TORCH)/bin/python -m pip --quiet install "$$wheel[cli]"
	@touch $@

# An environment of its own: PyInstaller freezes all that is installed there.
$(LIBRARIES)/.python: $(VENV)/.python pyproject.toml
	@echo "== Making $(LIBRARIES)"
	@$(BIN)/python -m venv --clear $(LIBRARIES)
	@$(LIBRARIES)/bin/python -m pip --quiet install --upgrade "pip>=25.1"
	@$(LIBRARIES)/bin/python -m pip --quiet install --group libraries
	@touch $@

$(LIBRARIES)/.penstock: build/.wheel $(LIBRARIES)/.python
	@$(LIBRARIES)/bin/python -m pip --quiet install --no-index --no-deps --force-reinstall $(WHEELS)/*.whl
	@touch $@
