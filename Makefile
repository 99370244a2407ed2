# `make demo` and `make test` need nothing but Python >= 3.11, make and pip.
#
# Linux wheels of torch on PyPI carry CUDA and weigh gigabytes. For the small CPU build:
#   make demo PIP_INSTALL_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

MINUTES ?= 3
PIP_INSTALL_ARGS ?=
# The newest Python that starts, is new enough and can make a virtual environment.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: .venv/.installed-plot ## Train a small model for MINUTES (3) minutes
	$(BIN)/compressive train --minutes $(MINUTES)

test: .venv/.installed-dev ## Run the tests
	$(BIN)/pytest -n auto --dist loadfile

lint: .venv/.installed-dev ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: .venv/.installed-dev ## Fix style and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove the environment, caches and builds; keep runs/
	rm -rf .venv dist .hypothesis .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the package with its '$*' extra into .venv (the first time takes minutes)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_INSTALL_ARGS) -c constraints.txt -e ".[$*]"
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || \
		{ echo "error: no Python >= 3.11 with venv found (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
