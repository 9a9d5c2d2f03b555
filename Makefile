# Every target makes the environment when it is missing or out of date, and otherwise starts at once.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python

.PHONY: help env demo test test-all lint clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

env: ## the environment alone
	@.dev/setup

demo: env ## the whole loop on a real model: train, serve, split, promote, roll back
	@$(PYTHON) -m cluster.demo

test: env lint ## lint and the tests (under 30 minutes on 2 cores)
	@$(PYTHON) -m pytest -m "not slow"

test-all: env lint ## the long chaos and soak tests too
	@$(PYTHON) -m pytest

lint: env ## ruff and mypy
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && $(PYTHON) -m mypy

clean: ## remove this checkout's .venv and caches (the shared package cache stays)
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
