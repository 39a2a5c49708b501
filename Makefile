# Everything runs from .venv, which the first target that needs it makes from requirements.lock.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format bench bench-peers lock clean

demo: .venv/installed
	MLRESEARCH_DATA_DIR=$${MLRESEARCH_DATA_DIR:-demo/data} $(BIN)/mlresearch reproduce experiments/demo --workdir=demo \
		--launcher=local

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/installed
	$(BIN)/python -m experiments.bench.run

bench-peers: .venv/installed
	$(BIN)/python -m experiments.bench.peers

# The lock file pins every version with its hashes, for Python 3.11 to 3.13, and names no package index.
lock: .venv/installed
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet --output-file requirements.lock

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and \
		"mlresearch needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
